"""DE-CM against its Algorithm 1, written down a second time from the paper, in plain tensors and in the paper's time.

There ``t = 0`` is noise and ``t = 1`` data, a prediction over ``[t, s]`` leads to ``x_t + (s - t) F``, and ``s = 1`` is
the data. What the algorithm and equation 15 leave in contradiction is settled as the docstring of the part says; the
last of these tests shows why.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from rcgm.derivatives import Central, ForwardMode
from rcgm.engine.combination import term
from rcgm.objectives import DECM, EnhancedTarget, NormalizedTarget, Point
from rcgm.objectives.times import Times, TimeSampler
from rcgm.transports import TrigFlow
from rcgm_kernels import AdaptiveWeight, Metric
from tests.support.gaussian import Gaussian, problem

NULL, BATCH, STEP = 4, 8, 0.005
# Our times: of the first two parts, and t and r of the third, their ends included.
ANYWHERE = torch.tensor([1 / 64, 0.25, 0.5, 0.3, 0.75, 0.9, 63 / 64, 1.0], dtype=torch.float64)
NEAR = torch.tensor([1.0, 0.97, 0.99, 0.95, 0.96, 1.0, 0.98, 0.955], dtype=torch.float64)
ENDS = torch.tensor([0.0, 0.4, 0.9, 0.95, 0.1, 0.6, 0.0, 0.8], dtype=torch.float64)


@dataclass(frozen=True)
class Given(TimeSampler):
    """Times in float64 that are not drawn."""

    given: Times | None = None

    def sample(self, batch, *, generator, device):
        return self.given


def decm(**changes) -> DECM:
    arguments = {
        "times": Given(given=Times(ANYWHERE, ANYWHERE)),
        "near": Given(given=Times(NEAR, ENDS)),
        "derivative": ForwardMode(),
    }
    return DECM(**{**arguments, **changes})


@dataclass
class Settings:
    taught: bool = True
    normalized: bool = False
    w_cfg: float | None = None
    eta: float = 0.0
    lam: float = 1.0
    gam: float = 1.0
    power: float | None = 0.5
    cosine: float = 1.0
    step: int = 0
    freq: int = 3
    central: bool = False


def column(values: Tensor) -> Tensor:
    return values[:, None]


def published(student, target, teacher, z_ref, z, y, dropped, s: Settings) -> Tensor:
    """Algorithm 1 in the paper's time; ``z_ref`` and ``z`` ``[B, D]``."""
    nothing = torch.full_like(y, NULL)

    def network(module, x, start, end, label=y):
        return -module(x, 1 - start, 1 - end, label)

    def predict(x, start, end):
        return network(student, x, start, end)

    def derivative(x, start, end, direction):
        v, a, b = direction
        with torch.no_grad():
            if s.central:
                ahead, behind = (predict(x + e * v, start + e * a, end + e * b) for e in (STEP, -STEP))
                return (ahead - behind) / (2 * STEP)
            speeds = (v, torch.full_like(start, a), torch.full_like(end, b))
            return torch.func.jvp(predict, (x, start, end), speeds)[1]

    @torch.no_grad()
    def guided(v, x, start, module):
        if s.w_cfg is None:
            return v
        difference = network(module, x, start, start) - network(module, x, start, start, nothing)
        if s.normalized:
            difference = s.eta * difference / difference.norm(dim=1, keepdim=True)
        return v + torch.where(column(dropped), 0, (s.w_cfg - 1) * difference)

    @torch.no_grad()
    def velocity(x, start):
        if s.taught:
            return guided(network(teacher, x, start, start), x, start, teacher)
        return guided(z_ref - z, x, start, target)

    def weighted(difference):
        m = difference.square().mean(1)
        weight = 1 if s.power is None else (difference.shape[1] * m.detach() + 1e-3) ** -s.power
        return (weight * m).mean()

    t = 1 - ANYWHERE
    z_t = column(1 - t) * z + column(t) * z_ref
    v_t = velocity(z_t, t)
    one = torch.ones_like(t)

    F_cm = predict(z_t, t, one)
    g_cm = F_cm.detach() - v_t - column(1 - t) * derivative(z_t, t, one, (v_t, 1.0, 0.0))
    w_1 = (1 - t) / 2  # equation 7, with the weight 1/epsilon
    loss_cm = weighted(F_cm - (F_cm.detach() - column(w_1) * g_cm))

    F_fm = predict(z_t, t, t)
    loss_fm = ((F_fm - v_t).square().mean(1) + s.cosine * (1 - cosine_similarity(F_fm, v_t, dim=1))).mean()
    loss = loss_cm + loss_fm
    if s.step % s.freq:
        return loss

    r, t = 1 - NEAR, 1 - ENDS  # from r, near noise, to any t
    z_r = column(1 - r) * z + column(r) * z_ref
    v_r = velocity(z_r, r)
    F_n2n = predict(z_r, r, t)
    with torch.no_grad():
        landing = z_r + column(t - r) * F_n2n
        v_landing = velocity(landing, t) if s.taught else network(target, landing, t, t)
    n2n_derivative = derivative(z_r, r, t, (s.lam * v_r, s.lam, -s.gam))
    g_n2n = (s.lam + s.gam) * F_n2n.detach() - (s.lam * v_r + s.gam * v_landing) - column(t - r) * n2n_derivative
    w_2 = 1 / (s.lam + s.gam)
    return loss + weighted(F_n2n - (F_n2n.detach() - w_2 * g_n2n)) + loss_fm


def batch():
    generator = torch.Generator().manual_seed(5)
    x, z = (torch.randn(BATCH, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    return x, z, torch.randint(0, NULL, (BATCH,), generator=generator)


def compare(s: Settings, random_network, dropout: float = 0.0, **changes) -> None:
    student, target, teacher = (random_network(seed) for seed in (1, 2, 3))
    x, z, labels = batch()
    guidance = None
    if s.w_cfg is not None:
        network = "teacher" if s.taught else "target"
        guidance = EnhancedTarget(s.w_cfg - 1, network=network)
        if s.normalized:
            # root mean square here, length in the paper
            guidance = NormalizedTarget(s.w_cfg - 1, network=network, size=s.eta / x.shape[1] ** 0.5)
    objective = decm(
        supervision="teacher" if s.taught else "data",
        guidance=guidance,
        start_weight=s.lam,
        end_weight=s.gam,
        every=s.freq,
        adaptive=None if s.power is None else AdaptiveWeight(s.power),
        metric=Metric(cosine=s.cosine),
        label_dropout=dropout,
        derivative=Central(STEP) if s.central else ForwardMode(),
        **changes,
    )
    ours = objective(
        student, x, labels, target=target, teacher=teacher, null_cond=torch.tensor([NULL]), noise=z,
        generator=torch.Generator().manual_seed(3), step=s.step,
    ).loss  # fmt: skip
    dropped = torch.rand(BATCH, generator=torch.Generator().manual_seed(3)) < dropout
    theirs = published(student, target, teacher, x, z, torch.where(dropped, NULL, labels), dropped, s)
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-11, atol=1e-13)
    parameters = list(student.parameters())
    for one, other in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("guidance", [{}, {"w_cfg": 1.75}, {"w_cfg": 1.75, "normalized": True, "eta": 0.6}], ids=str)
@pytest.mark.parametrize("step", [0, 1, 3])
@pytest.mark.parametrize("taught", [True, False], ids=["taught", "from scratch"])
def test_loss_and_gradient(taught, step, guidance, random_network):
    compare(Settings(taught, step=step, **guidance), random_network)


@pytest.mark.parametrize(
    "options",
    [
        {"lam": 0.7, "gam": 1.3},
        {"lam": 1.0, "gam": 0.0},
        {"lam": 0.0, "gam": 2.0},
        {"power": None},
        {"power": 1.0, "cosine": 0.0},
        {"freq": 2, "step": 2, "cosine": 0.3},
    ],
    ids=str,
)
def test_options_of_the_loss(options, random_network):
    compare(Settings(**options), random_network)


@pytest.mark.parametrize("taught", [True, False], ids=["taught", "from scratch"])
def test_dropped_conditions(taught, random_network):
    compare(Settings(taught, w_cfg=2.0, normalized=True, eta=0.5), random_network, dropout=0.4)


def test_central_differences(random_network, monkeypatch):
    # inside, where no difference is one-sided and r moves without leaving [0, t]
    monkeypatch.setitem(globals(), "ANYWHERE", 0.1 + 0.8 * ANYWHERE)
    monkeypatch.setitem(globals(), "NEAR", NEAR - 0.01)
    monkeypatch.setitem(globals(), "ENDS", 0.02 + 0.8 * ENDS)
    compare(Settings(lam=0.7, gam=1.3, central=True), random_network)


# The Gaussian problem


def residuals(objective: DECM, network, **networks) -> Tensor:
    """Those of all parts, ``[parts, B, D]``, from the gradient ``2 R / (D B)``, the weights included."""
    x, z, labels = batch()
    predictions = []

    def student(x, t, r, cond):
        answer = network(x, t, r, cond)
        if torch.is_grad_enabled():
            predictions.append(answer.requires_grad_())
        return answer

    objective(student, x, labels, noise=z, null_cond=torch.tensor([NULL]), **networks).loss.backward()
    (prediction,) = predictions
    return prediction.grad.reshape(-1, BATCH, 3) * (BATCH * 3 / 2)


def test_every_part_vanishes_with_a_teacher():
    exact = problem()
    taught = {"supervision": "teacher", "adaptive": None, "start_weight": 0.7, "end_weight": 1.3}
    found = residuals(decm(**taught), exact, target=exact, teacher=exact)
    assert found.shape[0] == 3
    assert found.abs().max() < 1e-12
    coarse, fine = (
        residuals(decm(**taught, derivative=Central(step)), exact, target=exact, teacher=exact) for step in (4e-3, 1e-3)
    )
    # Where t or r is at an end of its range the difference is one-sided, of first order.
    inside = [(0, slice(1, 5)), (2, [1, 2, 4, 7])]
    for part, samples in inside:
        assert coarse[part, samples].abs().max() / fine[part, samples].abs().max() == pytest.approx(16, rel=0.1)
    assert fine[1].abs().max() < 1e-12


def test_every_part_vanishes_at_the_guided_field():
    """Gaussians of one width: guidance moves the mean along the line through theirs, at the landing point too."""
    exact = problem()
    conditional, null = (Gaussian(exact.mean + shift, exact.std) for shift in (0.0, -0.8))
    guided = Gaussian(conditional.mean + 1.5 * (conditional.mean - null.mean), exact.std)

    def teacher(x, t, r, cond):
        return torch.where(column(cond == NULL), null(x, t, r), conditional(x, t, r))

    objective = decm(supervision="teacher", adaptive=None, guidance=EnhancedTarget(1.5, network="teacher"))
    assert residuals(objective, guided, target=guided, teacher=teacher).abs().max() < 1e-11
    assert residuals(objective, conditional, target=guided, teacher=teacher).abs().amax((1, 2)).min() > 0.1


# How often, and how much work


def test_the_third_part_comes_now_and_then():
    objective = DECM(every=3, near=TimeSampler(near=0.05))
    generator = torch.Generator().manual_seed(0)

    def draw(sampler):
        return sampler.sample(64, generator=generator, device="cpu")

    drawn = [objective.parts(draw(objective.times), step, draw) for step in range(7)]
    assert [len(parts) for parts in drawn] == [3, 2, 2, 3, 2, 2, 3]
    (_, whole), (_, instant), (_, near) = drawn[0]
    assert (whole.r == 0).all()
    assert torch.equal(instant.t, instant.r)
    assert instant.t is whole.t
    assert set((64 * whole.t).tolist()) <= set(range(1, 65))
    assert near.t.min() >= 0.95
    assert near.r.min() < 0.3


@pytest.mark.parametrize(
    ("step", "guidance", "waves", "evaluations"),
    [
        (1, None, 2, 1 + 1),  # teacher; derivative
        (0, None, 3, 1 + 1 + 1 + 2 + 1),  # and of the third part: teacher; step, derivative; teacher where it lands
        (1, EnhancedTarget(1.0, network="teacher"), 2, 2 + 1),
        (0, EnhancedTarget(1.0, network="teacher"), 3, 2 + 1 + 2 + 2 + 2),
    ],
)
def test_what_parts_ask_in_common_is_evaluated_once(step, guidance, waves, evaluations, random_network):
    x, z, labels = batch()
    out = decm(supervision="teacher", guidance=guidance)(
        random_network(1), x, labels, teacher=random_network(2), null_cond=torch.tensor([NULL]), noise=z, step=step
    )
    assert (out.waves, out.evaluations) == (waves, evaluations)


@pytest.mark.parametrize(("step", "parts"), [(0, 3), (1, 2)])
def test_given_times_are_those_of_the_first_two_parts(step, parts, random_network):
    x, z, labels = batch()
    generator = torch.Generator().manual_seed(1)
    out = decm()(
        random_network(1), x, labels, noise=z, times=(ANYWHERE, 0.5 * ANYWHERE), step=step, generator=generator
    )
    t, r = out.t.reshape(parts, BATCH), out.r.reshape(parts, BATCH)
    assert torch.equal(t[:2], ANYWHERE.expand(2, BATCH))
    assert not r[0].any()
    assert torch.equal(r[1], ANYWHERE)
    if parts == 3:
        assert t[2].min() >= 0.95


def test_normalisation_reaches_the_parts_that_learn_from_a_derivative(random_network):
    x, z, labels = batch()
    plain, normalized = (
        decm(metric=Metric(), adaptive=None, normalize=constant)(random_network(1), x, labels, noise=z, step=1).loss
        for constant in (None, 0.1)
    )
    assert normalized != plain


# Velocity normalisation


def guided_difference(guidance: NormalizedTarget, difference: Tensor, dropped: Tensor | None = None) -> Tensor:
    x, z, _ = batch()
    point = Point(x, z, x, z, z, ANYWHERE, ANYWHERE, 0, dropped)
    with_null = torch.zeros_like(difference)
    return guidance.regression_target(point, term(z), [difference, with_null]).value() - z


def test_the_guiding_difference_has_one_size_whatever_it_was():
    direction, _, _ = batch()
    sizes = torch.logspace(-6, 6, BATCH, dtype=torch.float64)
    change = guided_difference(NormalizedTarget(2.0, size=0.3), column(sizes) * direction)
    torch.testing.assert_close(change.square().mean(1).sqrt(), torch.full((BATCH,), 0.6, dtype=torch.float64))
    torch.testing.assert_close(cosine_similarity(change, direction), torch.ones(BATCH, dtype=torch.float64))


def test_normalised_guidance_leaves_alone_what_is_outside_dropped_or_without_a_difference():
    difference = batch()[0]
    difference[2] = 0
    dropped = torch.zeros(BATCH, dtype=torch.bool)
    dropped[4] = True
    change = guided_difference(NormalizedTarget(2.0, 0.28, 0.95), difference, dropped)
    changed = (change != 0).any(1)
    assert changed.tolist() == [False, False, False, True, False, True, False, False]


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"transport": TrigFlow()}, ValueError, r"transport must be linear for decm, got TrigFlow\("),
        ({"every": 0}, ValueError, "every must be at least 1, got 0"),
        ({"every": 2.0}, TypeError, r"every must be a whole number, got 2\.0"),
        ({"every": True}, TypeError, "every must be a whole number, got True"),
        ({"start_weight": -1.0}, ValueError, r"start_weight must be a finite number >= 0, got -1\.0"),
        ({"end_weight": float("nan")}, ValueError, "end_weight must be a finite number >= 0, got nan"),
        ({"start_weight": 0.0, "end_weight": 0.0}, ValueError, "start_weight and end_weight must not both be 0"),
    ],
)
def test_bad_settings(arguments, error, message):
    with pytest.raises(error, match=message):
        DECM(**arguments)


def test_bad_size_of_the_guidance():
    with pytest.raises(ValueError, match=r"guidance size must be a finite number > 0, got 0\.0"):
        NormalizedTarget(1.0, size=0.0)


def test_a_teacher_is_asked_for_before_any_work(random_network):
    x, _, labels = batch()
    with pytest.raises(ValueError, match="teacher must be given"):
        DECM(supervision="teacher")(random_network(1), x, labels)


# What the paper prints


def test_equation_15_as_printed_does_not_vanish_at_the_exact_network():
    """With the velocities exchanged, or with that of the straight line at the end, something is left."""
    exact, (x, z, _) = problem(), batch()
    lam, gam = 0.7, 1.3
    t, r = NEAR, ENDS
    x_t = column(t) * z + column(1 - t) * x
    v_t, F = exact.velocity(x_t, t), exact(x_t, t, r)
    landing = x_t - column(t - r) * F
    v_landing = exact.velocity(landing, r)
    line = column(r) * z + column(1 - r) * x
    ours = (column(torch.full_like(t, lam)) * v_t, torch.full_like(t, lam), torch.full_like(r, -gam))
    _, derivative = torch.func.jvp(exact, (x_t, t, r), ours)

    def left(start, end, weight=1.0):
        return ((lam + gam) * F - start - end + column(t - r) * weight * derivative).abs().max()

    assert left(lam * v_t, gam * v_landing) < 1e-12
    assert left(gam * v_t, lam * v_landing) > 0.1  # equation 15
    assert left(lam * v_t, gam * v_landing, lam) > 0.1  # Algorithm 1, line 23: the weight twice
    assert left(lam * v_t, gam * exact.velocity(line, r)) > 0.1  # Algorithm 1: the end on the straight line
