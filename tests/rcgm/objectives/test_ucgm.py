"""UCGM against its algorithm, written down a second time from the page (math.md section 4), in plain tensors.

Here one sample at a time, with the paper's ``f_x`` and times as plain numbers, at ``r = 0`` as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from rcgm.derivatives import Auto, Central, ForwardMode, OneSided
from rcgm.objectives import UCGM, CosineWeight, FlowMatching, SelfEnhancedTarget, TeacherEnhancedTarget
from rcgm.objectives.times import Times, TimeSampler
from rcgm.transports import EDM, VE, VP, Linear, ReversedLinear, Transport, TrigFlow, TrigLinear
from rcgm_kernels import Metric
from tests.support.gaussian import problem, states

NULL = 4
TIMES = [1.0, 0.998, 0.9, 0.76, 0.75, 0.62, 0.5, 0.33, 0.3, 0.1, 0.01, 0.003]
BATCH = len(TIMES)
RANGE = (0.2, 0.75)
HALF_PI = math.pi / 2


# alpha, gamma, alpha_hat, gamma_hat at a time
FUNCTIONS = {
    "linear": lambda t: (t, 1 - t, 1.0, -1.0),
    "trigflow": lambda t: (
        math.sin(HALF_PI * t),
        math.cos(HALF_PI * t),
        math.cos(HALF_PI * t),
        -math.sin(HALF_PI * t),
    ),
    "triglinear": lambda t: (math.sin(HALF_PI * t), math.cos(HALF_PI * t), 1.0, -1.0),
    "reversed": lambda t: (t, 1 - t, -1.0, 1.0),
}
TRANSPORTS = {"linear": Linear(), "trigflow": TrigFlow(), "triglinear": TrigLinear(), "reversed": ReversedLinear()}


@dataclass
class Settings:
    ratio: float
    transport: str = "linear"
    zeta: float | None = None
    guided_inputs: bool = False
    c: float = 5.0
    cosine: float = 0.0
    weighted: bool = True
    clip: float = 1.0
    epsilon: float = 0.005


def loss_of_one_sample(
    student: Callable, null_network: Callable, teacher: Callable, x, z, t: float, label, dropped: bool, s: Settings
) -> Tensor:
    """The loss of a sample ``x``, ``z`` of shape ``[1, ...]``, with gradient."""
    functions = FUNCTIONS[s.transport]

    def ask(network, state, time, end, condition=label):
        return network(state, *torch.tensor([[time], [end]], dtype=torch.float64), condition)

    def f_x(F, state, time):
        alpha, gamma, alpha_hat, gamma_hat = functions(time)
        return (alpha * F - alpha_hat * state) / (alpha * gamma_hat - alpha_hat * gamma)

    def f_z(F, state, time):
        alpha, gamma, alpha_hat, gamma_hat = functions(time)
        return (gamma_hat * state - gamma * F) / (alpha * gamma_hat - alpha_hat * gamma)

    alpha, gamma, alpha_hat, gamma_hat = functions(t)
    x_t = alpha * z + gamma * x
    F = ask(student, x_t, t, t if s.ratio == 0 else 0.0)
    with torch.no_grad():
        x_star, z_star = x, z
        if s.zeta is not None and s.ratio == 0:
            F_null = ask(null_network, x_t, t, t, torch.tensor([NULL]))
            estimates = [(x, f_x(F, x_t, t), f_x(F_null, x_t, t)), (z, f_z(F, x_t, t), f_z(F_null, x_t, t))]
            if dropped:
                x_star, z_star = ((own + null) / 2 for own, _, null in estimates)
            elif RANGE[0] <= t <= RANGE[1]:
                x_star, z_star = (own + s.zeta * (cond - null) for own, cond, null in estimates)
            else:
                x_star, z_star = ((own + cond) / 2 for own, cond, _ in estimates)
        elif s.zeta is not None and not dropped:
            F_teacher = ask(teacher, x_t, t, t)
            strength = s.zeta if RANGE[0] <= t <= RANGE[1] else 0.5
            x_star = x + strength * (f_x(F_teacher, x_t, t) - x)
            z_star = z + strength * (f_z(F_teacher, x_t, t) - z)

        def f(time, prediction=None):
            alpha, gamma, _, _ = functions(time)
            guided = alpha * z_star + gamma * x_star
            state = guided if s.guided_inputs else alpha * z + gamma * x
            prediction = ask(student, state, time, 0.0) if prediction is None else prediction
            return f_x(prediction, guided, time)

        if s.ratio == 0:
            target = alpha_hat * z_star + gamma_hat * x_star
        else:
            if s.ratio < 1:
                df = (f(t, F) - f(s.ratio * t)) / (t - s.ratio * t)
            else:
                behind, ahead = max(t - s.epsilon, 0.0), min(t + s.epsilon, 1.0)
                df = (f(ahead) - f(behind)) / (ahead - behind)
            factor = alpha / (alpha * gamma_hat - alpha_hat * gamma) * 4 / math.sin(HALF_PI * t)
            target = F - factor * df.clamp(-s.clip, s.clip)
    m = (F - target).square().mean()
    loss = (m + s.c**2).sqrt() - s.c
    loss = loss + s.cosine * (1 - torch.cosine_similarity(F.flatten(1), target.flatten(1)).squeeze(0))
    return loss * max(math.cos(HALF_PI * t), 0) if s.weighted else loss


def batch(shape=(BATCH, 3), seed=5):
    generator = torch.Generator().manual_seed(seed)
    x, z = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(0, NULL, (shape[0],), generator=generator)
    return x, z, torch.tensor(TIMES, dtype=torch.float64), labels


def gradients(loss: Tensor, network) -> list[Tensor]:
    grads = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(grads, network.parameters(), strict=True)]


def objective_of(s: Settings, **changes) -> UCGM:
    guidance = None
    if s.zeta is not None:
        guidance = (SelfEnhancedTarget if s.ratio == 0 else TeacherEnhancedTarget)(s.zeta, *RANGE)
    arguments = {
        "consistency_ratio": s.ratio,
        "transport": TRANSPORTS[s.transport],
        "guidance": guidance,
        "inputs": "guided" if s.guided_inputs else "data",
        "metric": Metric("pseudo_huber", c=s.c, cosine=s.cosine),
        "sample_weight": CosineWeight() if s.weighted else None,
        "clip": s.clip,
        "derivative": Central(s.epsilon),
    }
    return UCGM(**{**arguments, **changes})


def compare(s: Settings, random_network, dropout: float = 0.0, shape=(BATCH, 3), **changes) -> None:
    """Loss and gradient of the objective against those of the algorithm."""
    student, target, teacher = (random_network(seed, dimensions=math.prod(shape[1:])) for seed in (1, 2, 3))
    x, z, t, labels = batch(shape)
    objective = objective_of(s, label_dropout=dropout, **changes)
    times = Times(t, t, BATCH) if s.ratio == 0 else Times(t, torch.zeros_like(t))
    ours = objective(
        student, x, labels, target=target, teacher=teacher, null_cond=torch.tensor([NULL]), noise=z, times=times,
        generator=torch.Generator().manual_seed(3),
    ).loss  # fmt: skip
    dropped = torch.rand(BATCH, generator=torch.Generator().manual_seed(3)) < dropout
    labels = torch.where(dropped, NULL, labels)
    theirs = torch.stack(
        [
            loss_of_one_sample(
                student, target, teacher, x[i : i + 1], z[i : i + 1], TIMES[i], labels[i : i + 1], bool(dropped[i]), s
            )
            for i in range(BATCH)
        ]
    ).mean()
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-9, atol=1e-12)
    for one, other in zip(gradients(ours, student), gradients(theirs, student), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("guided_inputs", [False, True], ids=["data inputs", "guided inputs"])
@pytest.mark.parametrize("zeta", [None, 2.0], ids=["plain", "enhanced"])
@pytest.mark.parametrize("ratio", [0.3, 0.99, 1.0])
def test_consistency_training(ratio, zeta, guided_inputs, transport, random_network):
    compare(Settings(ratio, transport, zeta, guided_inputs), random_network)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("zeta", [None, 0.44], ids=["plain", "enhanced"])
@pytest.mark.parametrize("cosine", [0.0, 1.0])
def test_multi_step_training(zeta, cosine, transport, random_network):
    compare(Settings(0.0, transport, zeta, c=0.0, cosine=cosine, weighted=False), random_network)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_dropped_conditions(ratio, random_network):
    compare(Settings(ratio, "trigflow", 0.5), random_network, dropout=0.4)


@pytest.mark.parametrize("ratio", [0.5, 1.0])
@pytest.mark.parametrize(
    "options",
    [{"c": 0.1}, {"cosine": 0.7}, {"weighted": False}, {"clip": 0.2}, {"clip": 1e6}, {"epsilon": 1e-3}],
    ids=str,
)
def test_options_of_the_loss(options, ratio, random_network):
    compare(Settings(ratio, "triglinear", **options), random_network)


def test_images(random_network):
    compare(Settings(1.0, zeta=1.3), random_network, shape=(BATCH, 2, 2, 3))


def test_both_sides_of_the_clamp_are_taken(random_network):
    x, z, t, labels = batch()
    objective = UCGM(metric=Metric(), sample_weight=None)
    _, R = read(objective, random_network(1), x, z, Times(t, torch.zeros_like(t)), labels)
    at_the_bound = (R.abs() - (4 * t / torch.sin(HALF_PI * t))[:, None]).abs() < 1e-9
    assert 0 < at_the_bound.double().mean() < 1


def read(objective, network, x, z, times, labels=None, **networks):
    """The output of a call and the residual, read from the gradient ``2 R / (D B)`` of the L2 loss."""
    predictions = []

    def student(*point):
        answer = network(*point)
        if torch.is_grad_enabled():
            answer = answer.detach().requires_grad_()
            predictions.append(answer)
        return answer

    out = objective(student, x, labels, noise=z, times=times, **networks)
    out.loss.backward()
    (prediction,) = predictions
    return out, prediction.grad * prediction.numel() / 2


def plain(**changes) -> UCGM:
    return UCGM(**{"metric": Metric(), "clip": None, "sample_weight": None, **changes})


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_estimators_agree_in_the_limit(transport, random_network):
    x, z, t, labels = batch()
    t = t.clamp(0.01, 0.99)
    student = random_network(1)
    values = {}
    for derivative in (ForwardMode(), Central(1e-4), OneSided(1e-5)):
        objective = plain(transport=TRANSPORTS[transport], derivative=derivative)
        out, values[derivative] = read(objective, student, x, z, Times(t, torch.zeros_like(t)), labels)
        assert (out.waves, out.evaluations) == (1, 2 if derivative == Central(1e-4) else 1)
    exact = values.pop(ForwardMode())
    for close in values.values():
        torch.testing.assert_close(close, exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_chosen_steps_and_other_stencils(transport, random_network):
    x, z, t, labels = batch()
    times, student = Times(t.clamp(0.05, 0.95), torch.zeros_like(t)), random_network(1)
    _, exact = read(plain(transport=TRANSPORTS[transport], derivative=ForwardMode()), student, x, z, times, labels)
    for derivative in (Central(1e-2, order=4), Auto(), Auto(evaluations=4)):
        objective = plain(transport=TRANSPORTS[transport], derivative=derivative)
        for _ in range(3):  # the first two calls of auto measure
            _, R = read(objective, student, x, z, times, labels)
            torch.testing.assert_close(R, exact, rtol=1e-2, atol=1e-2)


def test_one_sided_difference_uses_the_prediction(random_network):
    """``[f(t) - f(t - e)]/e`` with the student's prediction in ``f(t)``, even where the target network is asked."""
    x, z, t, labels = batch()
    t = t.clamp(min=0.1)
    student, target = random_network(1), random_network(2)
    zero = torch.zeros_like(t)
    for network, second in (("student", student), ("target", target)):
        objective = plain(derivative=OneSided(0.01), network=network)
        out, R = read(objective, student, x, z, Times(t, zero), labels, target=target)

        def f(time, asked):
            state = time[:, None] * z + (1 - time[:, None]) * x
            return state - time[:, None] * asked(state, time, zero, labels).detach()

        df = (f(t, second) - f(t - 0.01, second)) / 0.01
        torch.testing.assert_close(R, (-4 * t / torch.sin(HALF_PI * t))[:, None] * df, rtol=1e-9, atol=1e-10)
        assert out.evaluations == (1 if network == "student" else 2)


def draw(transport: Transport, equal: int = 0, room: float = 0.02):
    """The exact network, states of the flow with their times away from the ends, and the pair that rebuilds them."""
    generator = torch.Generator().manual_seed(0)
    t = room + (1 - 2 * room) * torch.rand(256, generator=generator, dtype=torch.float64)
    r = (t - room) * torch.rand(256, generator=generator, dtype=torch.float64)
    r[::2] = 0
    r[:equal] = t[:equal]
    times = Times(t, r, equal)
    network = problem(transport)
    _, x, z = states(network, times)
    return network, x, z, times


CURVED = [Linear(), TrigFlow(), TrigLinear(), EDM()]


@pytest.mark.parametrize("transport", CURVED, ids=lambda transport: type(transport).__name__)
@pytest.mark.parametrize(("derivative", "rate"), [(Central, 100), (OneSided, 10)])
def test_vanishes_at_the_rate_of_the_difference(derivative, rate, transport):
    network, x, z, times = draw(transport, equal=60)
    row = [
        read(plain(transport=transport, derivative=derivative(step)), network, x, z, times)[1].abs().max().item()
        for step in (1e-2, 1e-3, 1e-4)
    ]
    print(f"{type(transport).__name__:<12} {derivative.__name__:<10} {row}")
    for coarse, fine in pairwise(row):
        assert rate * 0.6 < coarse / fine < rate * 1.7


@pytest.mark.parametrize("equal", [0, 60])
@pytest.mark.parametrize("transport", CURVED, ids=lambda transport: type(transport).__name__)
def test_vanishes_with_the_exact_derivative(transport, equal):
    network, x, z, times = draw(transport, equal)
    _, R = read(plain(transport=transport, derivative=ForwardMode()), network, x, z, times)
    assert R.abs().max() < 1e-8


@pytest.mark.parametrize("transport", CURVED, ids=lambda transport: type(transport).__name__)
def test_vanishes_as_the_ratio_goes_to_one(transport):
    network, x, z, times = draw(transport, equal=30)
    row = [
        read(plain(transport=transport, consistency_ratio=1 - gap), network, x, z, times)[1].abs().max().item()
        for gap in (1e-2, 1e-3, 1e-4)
    ]
    assert row[0] > 1e-3
    for coarse, fine in pairwise(row):
        assert 8 < coarse / fine < 12


@pytest.mark.parametrize("transport", CURVED, ids=lambda transport: type(transport).__name__)
def test_vanishes_at_ratio_zero(transport):
    network, x, z, times = draw(transport, equal=256)
    _, R = read(plain(transport=transport, consistency_ratio=0.0), network, x, z, times)
    assert R.abs().max() < 1e-12


def test_a_teacher_stands_in_for_the_data():
    """With the exact instantaneous prediction as the teacher, any pair on the state gives a residual that vanishes."""
    network, x, z, times = draw(TrigFlow())
    column = times.t[:, None]
    # another pair with the same state: its target is not that of the flow
    x, z = x + torch.sin(HALF_PI * column), z - torch.cos(HALF_PI * column)
    objective = plain(transport=TrigFlow(), derivative=ForwardMode(), supervision="teacher", inputs="guided")
    _, R = read(objective, network, x, z, times, teacher=network)
    assert R.abs().max() < 1e-8
    _, R = read(plain(transport=TrigFlow(), derivative=ForwardMode()), network, x, z, times)
    assert R.abs().max() > 0.1


def test_edm_is_the_step_to_zero_up_to_its_first_noise(random_network):
    """``f_x`` of the paper and the step to 0 differ by as much noise as the transport starts with."""
    x, z, t, labels = batch()
    t, zero = t.clamp(0.1, 0.9), torch.zeros_like(t)
    student, edm = random_network(1), EDM()
    _, R = read(plain(transport=edm), student, x, z, Times(t, zero), labels)

    def f_x(time):
        state = edm.alpha(time)[:, None] * z + edm.gamma(time)[:, None] * x
        F = student(state, time, zero, labels).detach()
        return (edm.alpha(time)[:, None] * F - edm.alpha_hat(time)[:, None] * state) / edm.determinant(time)[:, None]

    factor = edm.alpha(t) / edm.determinant(t) * 4 / torch.sin(HALF_PI * t)
    expected = factor[:, None] * (f_x(t + 0.005) - f_x(t - 0.005)) / 0.01
    torch.testing.assert_close(R, expected, rtol=0, atol=0.02 * expected.abs().max().item())


@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_target_network_on_request(ratio, random_network):
    x, z, t, labels = batch()
    times = Times(t, torch.zeros_like(t))
    for name in ("student", "target"):
        asked = {"student": 0, "target": 0}

        def student(*point, asked=asked):
            asked["student"] += not torch.is_grad_enabled()
            return random_network(1)(*point)

        def target(*point, asked=asked):
            asked["target"] += 1
            return random_network(2)(*point)

        objective = UCGM(consistency_ratio=ratio, network=name)
        objective(student, x, labels, target=target, noise=z, times=times)
        assert asked == {"student": 0, "target": 0} | {name: 1}


@pytest.mark.parametrize(
    ("changes", "waves", "evaluations"),
    [
        ({"consistency_ratio": 0.0}, 0, 0),
        ({"consistency_ratio": 0.0, "guidance": SelfEnhancedTarget(0.5)}, 1, 1),
        ({"consistency_ratio": 0.0, "guidance": SelfEnhancedTarget(0.5), "supervision": "teacher"}, 1, 2),
        ({"consistency_ratio": 0.5}, 1, 1),
        ({"guidance": TeacherEnhancedTarget(2.0)}, 2, 3),
        ({"guidance": TeacherEnhancedTarget(2.0), "inputs": "data"}, 1, 3),
        ({"guidance": SelfEnhancedTarget(0.5)}, 2, 4),
    ],
    ids=str,
)
def test_waves(changes, waves, evaluations, random_network):
    x, _, _, labels = batch()
    out = UCGM(**changes)(
        random_network(1), x, labels, target=random_network(2), teacher=random_network(3),
        null_cond=torch.tensor([NULL]), generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert (out.waves, out.evaluations) == (waves, evaluations)
    assert torch.equal(out.r, out.t if changes.get("consistency_ratio") == 0 else torch.zeros_like(out.t))


@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_equal_samples_are_not_evaluated(ratio, random_network):
    x, z, t, labels = batch()
    sizes = []

    def student(*point):
        sizes.append((torch.is_grad_enabled(), len(point[0])))
        return random_network(1)(*point)

    r = torch.cat([t[:5], torch.zeros(BATCH - 5)])
    UCGM(consistency_ratio=ratio)(student, x, labels, noise=z, times=Times(t, r, 5))
    assert sizes == [(False, (BATCH - 5) * (2 if ratio == 1 else 1)), (True, BATCH)]


@pytest.mark.parametrize("make", [FlowMatching, lambda: UCGM(consistency_ratio=0.0)], ids=["flow matching", "ratio 0"])
def test_flow_matching_has_no_interval_whatever_is_given(make, random_network):
    x, z, t, labels = batch()
    student = random_network(1)
    other, same = (
        make()(student, x, labels, noise=z, times=times) for times in ((t, torch.zeros_like(t)), Times(t, t, BATCH))
    )
    assert torch.equal(other.loss, same.loss)
    assert torch.equal(other.r, t)


def test_ratio_zero_is_flow_matching(random_network):
    x, z, t, labels = batch()
    student, times = random_network(1), Times(t, t, BATCH)
    ours = UCGM(consistency_ratio=0.0, metric=Metric(), sample_weight=None)(student, x, labels, noise=z, times=times)
    assert torch.equal(ours.loss, FlowMatching()(student, x, labels, noise=z, times=times).loss)


EDGES = [0.0, 1e-30, 1e-12, 1e-7, 1e-6, 3e-6, 1e-4, 0.004, 0.5, 0.9999999, 1.0]


@pytest.mark.parametrize("transport", [*CURVED, VE()], ids=lambda transport: type(transport).__name__)
@pytest.mark.parametrize("derivative", [Central(), OneSided(), ForwardMode()], ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("ratio", [0.0, 0.001, 0.7, 0.999999, 1.0])
def test_every_time_is_finite_in_float32(ratio, derivative, transport, random_network):
    t = torch.tensor(EDGES + EDGES + EDGES)
    r = torch.cat([torch.tensor(EDGES), torch.zeros(len(EDGES)), 0.999999 * torch.tensor(EDGES)])
    generator = torch.Generator().manual_seed(0)
    x, z = (torch.randn((len(t), 3), generator=generator) for _ in range(2))
    student = random_network(1, torch.float32)
    for equal in (0, len(EDGES)):
        objective = plain(consistency_ratio=ratio, derivative=derivative, transport=transport, clip=1.0)
        _, R = read(objective, student, x, z, Times(t, r, equal))
        assert R.isfinite().all()
        assert R.abs().max() < 400


@pytest.mark.parametrize("ratio", [0.0, 0.7, 1.0])
def test_noise_may_start_with_an_infinite_derivative(ratio, random_network):
    """VP, whose coefficients grow as ``t^(-1/2)``; 6e-8 is the smallest time above 0 that is drawn."""
    t = torch.tensor([0.0, 6e-8, 1e-3, 1.0])
    x, z, _, _ = batch((4, 3))
    for derivative in (Central(), OneSided(), ForwardMode()):
        objective = plain(consistency_ratio=ratio, derivative=derivative, transport=VP(), clip=1.0)
        _, R = read(objective, random_network(1, torch.float32), x.float(), z.float(), Times(t, torch.zeros(4)))
        assert R.isfinite().all()
        assert R.abs().max() < 5e3
        assert ratio == 0 or not R[0].any()


def test_small_intervals_keep_their_scale(random_network):
    """Through the hand-over to the limit at 1e-6 the residual is that of flow matching, times ``8/pi``."""
    t = torch.tensor([0.0, 1e-9, 0.99e-6, 1.01e-6, 1e-5], dtype=torch.float64)
    x, z, _, _ = batch((5, 3))
    student, zero = random_network(1), torch.zeros(5, dtype=torch.float64)
    expected = 8 / math.pi * (student(x, zero, zero).detach() - (z - x))
    for objective in (plain(derivative=ForwardMode()), plain(consistency_ratio=0.5)):
        _, R = read(objective, student, x, z, Times(t, zero))
        torch.testing.assert_close(R, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_a_broken_sample_stays_alone(ratio, random_network):
    x, z, t, labels = batch()
    x[4, 1] = math.nan
    objective = UCGM(consistency_ratio=ratio, metric=Metric(), guidance=TeacherEnhancedTarget(2.0))
    _, R = read(
        objective, random_network(1), x, z, Times(t, torch.zeros_like(t)), labels, teacher=random_network(2),
        null_cond=torch.tensor([NULL]),
    )  # fmt: skip
    broken = R.isnan().any(1)
    assert broken[4]
    assert broken.sum() == 1


def test_default_times_are_the_papers(random_network):
    out = UCGM()(random_network(1), batch()[0], generator=torch.Generator().manual_seed(0))
    assert not out.r.any()
    assert UCGM().times == TimeSampler("beta", 0.8, 1.0, interval="zero")
    many = UCGM().times.sample(20_000, generator=torch.Generator().manual_seed(0), device="cpu").t
    assert abs(many.mean() - 0.8 / 1.8) < 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"consistency_ratio": -0.1}, "consistency_ratio must be from 0 to 1, got -0.1"),
        ({"consistency_ratio": 1.5}, "consistency_ratio must be from 0 to 1, got 1.5"),
        ({"consistency_ratio": math.nan}, "consistency_ratio must be from 0 to 1, got nan"),
        ({"network": "teacher"}, "network must be one of student, target, got 'teacher'"),
        ({"inputs": "noise"}, "inputs must be one of data, guided, got 'noise'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        UCGM(**arguments)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_self_enhanced_target_has_a_limit(scale):
    with pytest.raises(ValueError, match="guidance scale of a self-enhanced target must be from 0 to below 1"):
        SelfEnhancedTarget(scale)


def test_needs_its_teacher(random_network):
    x, _, _, labels = batch()
    with pytest.raises(ValueError, match="teacher must be given"):
        UCGM(guidance=TeacherEnhancedTarget(2.0))(random_network(1), x, labels, null_cond=torch.tensor([NULL]))
