"""TiM against its algorithm, written down a second time from the paper (equations 6 to 13, table 1), in plain tensors.

Here one sample at a time, with the paper's letters (alpha for data, sigma for noise), its times where they differ from
[0, 1], and the coefficients ``B`` and ``dB/dt`` of its table, two of whose misprints are mended: ``dB/dt`` of its own
transport lacks a factor pi, and ``B`` of VP has ``beta_r`` in its denominator (both follow from equation 6).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from rcgm.derivatives import Central, ForwardMode, OneSided
from rcgm.objectives import FlowMatching, IntervalWeight, MixedTarget, TiM
from rcgm.objectives.times import Times
from rcgm.transports import Linear, Transport, TrigFlow, TrigLinear
from rcgm_kernels import AdaptiveWeight, Metric
from tests.support.gaussian import problem, states

NULL = 4
PI = math.pi
EQUAL = 3
# t and r. The first EQUAL are said to be equal; the others hold a sample that happens to be.
INTERVALS = [
    (0.7, 0.7),
    (0.25, 0.25),
    (1.0, 1.0),
    (0.4, 0.4),
    (0.5, 0.497),  # t - e < r
    (0.998, 0.1),  # t + e > 1
    (1.0, 0.3),
    (0.9, 0.0),
    (0.8, 0.1),
    (0.62, 0.55),
    (0.33, 0.0),
    (0.31, 0.3),
]
BATCH = len(INTERVALS)
RANGE = (0.3, 0.8)


class Functions(Transport):
    """A transport of four functions, none of whose derivatives are given."""

    def __init__(self, alpha, gamma, alpha_hat, gamma_hat):
        self.four = alpha, gamma, alpha_hat, gamma_hat

    def alpha(self, t):
        return self.four[0](t)

    def gamma(self, t):
        return self.four[1](t)

    def alpha_hat(self, t):
        return self.four[2](t)

    def gamma_hat(self, t):
        return self.four[3](t)


def beta(t):
    return torch.sqrt(torch.expm1(0.5 * 19.9 * t**2 + 0.1 * t))


def beta_derivative(t):
    return (19.9 * t + 0.1) * torch.exp(0.5 * 19.9 * t**2 + 0.1 * t) / (2 * beta(t))


@dataclass
class Row:
    """A row of table 1: the time of the paper at our 1, coefficients of data and noise, what is regressed, ``B``."""

    end: float
    path: Callable  # alpha, sigma
    regressed: Callable  # alpha_hat, sigma_hat
    derivatives: Callable  # their derivatives
    B: Callable
    B_derivative: Callable
    transport: Transport


ONE, ZERO = torch.ones_like, torch.zeros_like
TABLE = {
    "OT-FM": Row(
        1.0,
        lambda t: (1 - t, t),
        lambda t: (-1, 1),
        lambda t: (0, 0),
        lambda t, r: r - t,
        lambda t, r: -1,
        Linear(),
    ),
    "TrigFlow": Row(
        PI / 2,
        lambda t: (torch.cos(t), torch.sin(t)),
        lambda t: (-torch.sin(t), torch.cos(t)),
        lambda t: (-torch.cos(t), -torch.sin(t)),
        lambda t, r: torch.sin(r - t),
        lambda t, r: -torch.cos(r - t),
        TrigFlow(),
    ),
    "VP-SDE": Row(
        1.0,
        lambda t: (1 / (beta(t) ** 2 + 1).sqrt(), beta(t) / (beta(t) ** 2 + 1).sqrt()),
        lambda t: (0, 1),
        lambda t: (0, 0),
        lambda t, r: (beta(r) - beta(t)) / (beta(r) ** 2 + 1).sqrt(),
        lambda t, r: -beta_derivative(t) / (beta(r) ** 2 + 1).sqrt(),
        Functions(lambda t: beta(t) / (beta(t) ** 2 + 1).sqrt(), lambda t: 1 / (beta(t) ** 2 + 1).sqrt(), ONE, ZERO),
    ),
    "VE-SDE": Row(
        5.0,
        lambda t: (1, t),
        lambda t: (0, -1),
        lambda t: (0, 0),
        lambda t, r: t - r,
        lambda t, r: 1,
        Functions(lambda t: 5 * t, ONE, lambda t: -torch.ones_like(t), ZERO),
    ),
    # sigma_d = 1/2, up to the square root that the table leaves out of alpha
    "EDM": Row(
        3.0,
        lambda t: (0.5 / (t**2 + 0.25).sqrt(), t / (t**2 + 0.25).sqrt()),
        lambda t: (t / (t**2 + 0.25).sqrt(), -0.5 / (t**2 + 0.25).sqrt()),
        lambda t: (0.25 / (t**2 + 0.25) ** 1.5, 0.5 * t / (t**2 + 0.25) ** 1.5),
        lambda t, r: 0.5 * (t - r) / (t**2 + 0.25).sqrt() / (r**2 + 0.25).sqrt(),
        lambda t, r: 0.5 * (0.25 + t * r) / (t**2 + 0.25) ** 1.5 / (r**2 + 0.25).sqrt(),
        Functions(
            lambda t: 3 * t / (9 * t**2 + 0.25).sqrt(),
            lambda t: 0.5 / (9 * t**2 + 0.25).sqrt(),
            lambda t: -0.5 / (9 * t**2 + 0.25).sqrt(),
            lambda t: 3 * t / (9 * t**2 + 0.25).sqrt(),
        ),
    ),
    "TiM": Row(
        1.0,
        lambda t: (torch.cos(PI / 2 * t), torch.sin(PI / 2 * t)),
        lambda t: (-1, 1),
        lambda t: (0, 0),
        lambda t, r: torch.sin(PI / 2 * (r - t)) / (torch.sin(PI / 2 * t) + torch.cos(PI / 2 * t)),
        lambda t, r: -PI * math.sqrt(2) * torch.sin(PI / 2 * r + PI / 4) / (2 * torch.sin(PI * t) + 2),
        TrigLinear(),
    ),
}


@dataclass
class Settings:
    row: str
    guidance: tuple[float, float, bool] | None = None  # w_cond, w_gt, both times
    guided_inputs: bool = False
    sigma_d: float | None = 1.0
    warp: str = "tangent"
    power: float = 0.5
    adaptive: tuple[float, float] | None = (1.0, 1e-3)
    epsilon: float = 0.005


def loss_of_one_sample(student, target, x, z, t: float, r: float, label, dropped: bool, s: Settings) -> Tensor:
    """The loss of a sample ``x``, ``eps = z`` of shape ``[1, ...]``, with gradient."""
    row = TABLE[s.row]
    tau, rho = (torch.tensor(row.end * time, dtype=torch.float64) for time in (t, r))  # the paper's times

    def ask(network, state, time, end, condition=label):
        return network(state, time[None] / row.end, end[None] / row.end, condition)

    alpha, sigma = row.path(tau)
    x_t = alpha * x + sigma * z
    F = ask(student, x_t, tau, rho)
    with torch.no_grad():
        alpha_hat, sigma_hat = row.regressed(tau)
        supervision = alpha_hat * x + sigma_hat * z
        if s.guidance is not None and not dropped and RANGE[0] <= t <= RANGE[1]:
            w_cond, w_gt, both = s.guidance
            if not both or RANGE[0] <= r <= RANGE[1]:
                F_cond, F_null = ask(target, x_t, tau, tau), ask(target, x_t, tau, tau, torch.tensor([NULL]))
                supervision = w_gt * supervision + w_cond * F_cond + (1 - w_gt - w_cond) * F_null
        # the data and the noise that the supervision stands for: equation 4
        determinant = sigma_hat * alpha - alpha_hat * sigma
        x_star = (sigma_hat * x_t - sigma * supervision) / determinant
        z_star = (alpha * supervision - alpha_hat * x_t) / determinant
        alpha_derivative, sigma_derivative = row.derivatives(tau)

        def f(time):
            alpha, sigma = row.path(time)
            return ask(student, alpha * x + sigma * z, time, rho)

        f_hat = supervision
        if t > r:
            e = row.end * s.epsilon
            behind, ahead = (tau - e).clamp(min=rho), (tau + e).clamp(max=row.end)
            derivative = (f(ahead) - f(behind)) / (ahead - behind)
            f_hat = supervision + row.B(tau, rho) / row.B_derivative(tau, rho) * (
                alpha_derivative * x_star + sigma_derivative * z_star - derivative
            )
    m = (F - f_hat).square().mean()
    loss = m
    if s.sigma_d is not None:
        warp = {"tangent": math.tan, "odds": lambda time: time / (1 - time), "identity": lambda time: time}[s.warp]
        if t == r:
            loss = loss * s.sigma_d**-s.power
        elif s.warp == "odds" and t == 1:
            loss = 0 * loss
        else:
            loss = loss * (s.sigma_d + warp(t) - warp(r)) ** -s.power
    if s.adaptive is not None:
        power, eps = s.adaptive
        loss = loss / (F.numel() * m.detach() + eps) ** power
    return loss


def batch(shape=(BATCH, 3), seed=5):
    generator = torch.Generator().manual_seed(seed)
    x, z = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    times = torch.tensor(INTERVALS, dtype=torch.float64)
    labels = torch.randint(0, NULL, (shape[0],), generator=generator)
    return x, z, Times(times[:, 0].contiguous(), times[:, 1].contiguous(), EQUAL), labels


def gradients(loss: Tensor, network) -> list[Tensor]:
    grads = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(grads, network.parameters(), strict=True)]


def objective_of(s: Settings, **changes) -> TiM:
    guidance = None
    if s.guidance is not None:
        w_cond, w_gt, both = s.guidance
        guidance = MixedTarget(w_cond, *RANGE, data=w_gt, both_times=both)
    arguments = {
        "transport": TABLE[s.row].transport,
        "guidance": guidance,
        "sample_weight": None if s.sigma_d is None else IntervalWeight(s.sigma_d, s.warp, s.power),
        "adaptive": None if s.adaptive is None else AdaptiveWeight(*s.adaptive),
        "derivative": Central(s.epsilon),
    }
    return TiM(**{**arguments, **changes})


def compare(s: Settings, random_network, dropout: float = 0.0, shape=(BATCH, 3), equal: int = EQUAL) -> None:
    """Loss and gradient of the objective against those of the algorithm."""
    student, target = (random_network(seed, dimensions=math.prod(shape[1:])) for seed in (1, 2))
    x, z, times, labels = batch(shape)
    ours = objective_of(s, label_dropout=dropout)(
        student, x, labels, target=target, null_cond=torch.tensor([NULL]), noise=z,
        times=Times(times.t, times.r, equal), generator=torch.Generator().manual_seed(3),
    ).loss  # fmt: skip
    dropped = torch.rand(BATCH, generator=torch.Generator().manual_seed(3)) < dropout
    labels = torch.where(dropped, NULL, labels)
    theirs = torch.stack(
        [
            loss_of_one_sample(
                student, target, x[i : i + 1], z[i : i + 1], *INTERVALS[i], labels[i : i + 1], bool(dropped[i]), s
            )
            for i in range(BATCH)
        ]
    ).mean()
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-9, atol=1e-12)
    for one, other in zip(gradients(ours, student), gradients(theirs, student), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize("guidance", [None, (0.75, 1.0, False), (0.4, 0.8, True)], ids=str)
@pytest.mark.parametrize("row", TABLE)
def test_loss_and_gradient(row, guidance, random_network):
    compare(Settings(row, guidance), random_network)


@pytest.mark.parametrize(
    "options",
    [
        {"sigma_d": None},
        {"sigma_d": 0.5},
        {"warp": "identity"},
        {"warp": "odds", "sigma_d": 0.7},
        {"power": 1.0},
        {"power": 2.0, "warp": "odds"},
        {"adaptive": None},
        {"adaptive": (0.75, 1e-2)},
        {"epsilon": 1e-3},
    ],
    ids=str,
)
def test_options_of_the_loss(options, random_network):
    compare(replace(Settings("TiM"), **options), random_network)


@pytest.mark.parametrize("row", ["TiM", "TrigFlow"])
def test_dropped_conditions(row, random_network):
    compare(Settings(row, (0.75, 1.0, False)), random_network, dropout=0.4)


def test_images(random_network):
    compare(Settings("TrigFlow"), random_network, shape=(BATCH, 2, 2, 3))


def test_equal_samples_need_not_be_announced(random_network):
    compare(Settings("TrigFlow"), random_network, equal=0)


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


def plain(**changes) -> TiM:
    return TiM(**{"adaptive": None, "sample_weight": None, **changes})


def test_linear_is_meanflow(random_network):
    """``F - v + (t - r) dF/dt``."""
    x, z, times, labels = batch()
    student = random_network(1)
    x_t = times.t[:, None] * z + (1 - times.t[:, None]) * x
    ones, zeros = torch.ones_like(times.t), torch.zeros_like(times.t)
    F, derivative = torch.func.jvp(
        lambda *point: student(*point, labels), (x_t, times.t, times.r), (z - x, ones, zeros)
    )
    _, R = read(plain(transport=Linear(), derivative=ForwardMode()), student, x, z, times, labels)
    expected = F - (z - x) + (times.t - times.r)[:, None] * derivative
    torch.testing.assert_close(R, expected.detach(), rtol=1e-10, atol=1e-12)


def test_no_interval_is_flow_matching(random_network):
    x, z, times, labels = batch()
    student, instant = random_network(1), Times(times.t, times.t, BATCH)
    for transport in (Linear(), TrigFlow(), TrigLinear()):
        ours = plain(transport=transport)(student, x, labels, noise=z, times=instant)
        expected = FlowMatching(transport=transport)(student, x, labels, noise=z, times=instant)
        torch.testing.assert_close(ours.loss, expected.loss, rtol=1e-14, atol=0)
        assert ours.waves == 0


def test_estimators_agree_in_the_limit(random_network):
    x, z, times, labels = batch()
    times = Times(times.t.clamp(0.01, 0.99), times.r.clamp(0.01, 0.99), EQUAL)
    values = {}
    for derivative in (ForwardMode(), Central(1e-4), OneSided(1e-5)):
        out, values[derivative] = read(plain(derivative=derivative), random_network(1), x, z, times, labels)
        assert (out.waves, out.evaluations) == (1, 2 if derivative == Central(1e-4) else 1)
    exact = values.pop(ForwardMode())
    for close in values.values():
        torch.testing.assert_close(close, exact, rtol=1e-3, atol=1e-3)


def draw(transport: Transport, equal: int = 0, room: float = 0.02):
    """The exact network, states of the flow with their times away from the ends, and the pair that rebuilds them."""
    generator = torch.Generator().manual_seed(0)
    t = 2 * room + (1 - 3 * room) * torch.rand(256, generator=generator, dtype=torch.float64)
    r = room + (t - 2 * room) * torch.rand(256, generator=generator, dtype=torch.float64)
    r[:equal] = t[:equal]
    times = Times(t, r, equal)
    network = problem(transport)
    _, x, z = states(network, times)
    return network, x, z, times


@pytest.mark.parametrize("row", ["OT-FM", "TrigFlow", "EDM", "TiM"])
@pytest.mark.parametrize(("derivative", "rate"), [(Central, 100), (OneSided, 10)])
def test_vanishes_at_the_rate_of_the_difference(derivative, rate, row):
    transport = TABLE[row].transport
    network, x, z, times = draw(transport, equal=60)
    sizes = [
        read(plain(transport=transport, derivative=derivative(step)), network, x, z, times)[1].abs().max().item()
        for step in (1e-2, 1e-3, 1e-4)
    ]
    print(f"{row:<10} {derivative.__name__:<10} {sizes}")
    for coarse, fine in pairwise(sizes):
        assert rate * 0.6 < coarse / fine < rate * 1.7


@pytest.mark.parametrize("row", TABLE)
def test_vanishes_with_the_exact_derivative(row):
    transport = TABLE[row].transport
    network, x, z, times = draw(transport)
    _, R = read(plain(transport=transport, derivative=ForwardMode()), network, x, z, times)
    assert R.abs().max() < 1e-7


@pytest.mark.parametrize("guided", ["data", "guided"])
def test_a_teacher_stands_in_for_the_data(guided):
    """With the exact instantaneous prediction as the teacher, any pair on the state will do along its velocity."""
    transport = TrigFlow()
    network, x, z, times = draw(transport)
    column = times.t[:, None]
    # another pair with the same state: its target is not that of the flow
    x, z = x + torch.sin(PI / 2 * column), z - torch.cos(PI / 2 * column)
    objective = plain(transport=transport, derivative=ForwardMode(), supervision="teacher", inputs=guided)
    out, R = read(objective, network, x, z, times, teacher=network)
    # along the data the derivative is that of the wrong pair
    assert (R.abs().max() < 1e-7) == (guided == "guided")
    assert out.waves == (2 if guided == "guided" else 1)


def test_residual_is_kept_small_where_the_derivative_of_b_vanishes():
    """TrigFlow from t = 1 to r = 0: ``B/B'`` has no limit; the residual is scaled down and still vanishes."""
    transport = TrigFlow()
    t = torch.tensor([1.0, 1 - 1e-9, 1 - 1e-6, 1 - 1e-3, 0.9], dtype=torch.float64)
    times = Times(t, torch.zeros_like(t))
    network = problem(transport)
    _, x, z = states(network, times)
    objective = plain(transport=transport, derivative=ForwardMode())
    _, exact = read(objective, network, x, z, times)
    assert exact.abs().max() < 1e-6

    def shifted(x, t, r, cond):
        return network(x, t, r) + t[:, None] ** 2

    _, R = read(objective, shifted, x, z, times)
    assert R.isfinite().all()
    # (F - T) + (B/B') (dF/dt - T') for the shift alone, before it is scaled
    ratio = torch.tan(PI / 2 * t) / (PI / 2)
    unscaled = t**2 + ratio * 2 * t
    expected = (unscaled * (1e3 / ratio).clamp(max=1))[:, None].expand_as(R)
    torch.testing.assert_close(R, expected, rtol=1e-6, atol=1e-6)
    assert (ratio > 1e3).tolist() == [True, True, True, False, False]


EDGES = [0.0, 1e-30, 1e-12, 1e-7, 1e-4, 0.004, 0.5, 0.9999999, 1.0]


@pytest.mark.parametrize("row", TABLE)
@pytest.mark.parametrize("derivative", [Central(), OneSided()], ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("warp", ["tangent", "odds"])
def test_every_time_is_finite_in_float32(warp, derivative, row, random_network):
    t = torch.tensor(EDGES + EDGES + EDGES)
    r = torch.cat([torch.tensor(EDGES), torch.zeros(len(EDGES)), 0.999999 * torch.tensor(EDGES)])
    generator = torch.Generator().manual_seed(0)
    x, z = (torch.randn((len(t), 3), generator=generator) for _ in range(2))
    student = random_network(1, torch.float32)
    for equal in (0, len(EDGES)):
        objective = TiM(transport=TABLE[row].transport, derivative=derivative, sample_weight=IntervalWeight(warp=warp))
        out, R = read(objective, student, x, z, Times(t, r, equal))
        assert out.loss.isfinite()
        assert R.isfinite().all()


def test_a_broken_sample_stays_alone(random_network):
    x, z, times, labels = batch()
    x[8, 1] = math.nan
    objective = TiM(guidance=MixedTarget(0.75, *RANGE))
    _, R = read(objective, random_network(1), x, z, times, labels, null_cond=torch.tensor([NULL]))
    broken = R.isnan().any(1)
    assert broken[8]
    assert broken.sum() == 1


def test_weight_of_intervals():
    t, r = torch.tensor([0.5, 0.5, 1.0, 1.0]), torch.tensor([0.5, 0.0, 0.0, 1.0])
    torch.testing.assert_close(
        IntervalWeight(0.5)(t, r),
        torch.tensor([2.0, 1 / (0.5 + math.tan(0.5)), 1 / (0.5 + math.tan(1.0)), 2.0]).sqrt(),
    )
    torch.testing.assert_close(IntervalWeight(0.5, "odds", 1.0)(t, r), torch.tensor([2.0, 1 / 1.5, 0.0, 2.0]))
    assert torch.equal(IntervalWeight(0.5, "odds", 0.0)(t, r), torch.ones(4))


@pytest.mark.parametrize(
    ("changes", "waves", "evaluations"),
    [
        ({}, 1, 2),
        ({"guidance": MixedTarget(0.75, *RANGE)}, 1, 4),
        ({"guidance": MixedTarget(0.75, *RANGE), "inputs": "guided"}, 2, 4),
        ({"guidance": MixedTarget(0.75, *RANGE), "supervision": "teacher"}, 1, 5),
        ({"derivative": OneSided()}, 1, 1),
        ({"derivative": OneSided(), "network": "target"}, 1, 2),
    ],
    ids=str,
)
def test_waves(changes, waves, evaluations, random_network):
    x, z, times, labels = batch()
    out = TiM(**changes)(
        random_network(1), x, labels, target=random_network(2), teacher=random_network(3),
        null_cond=torch.tensor([NULL]), noise=z, times=times,
    )  # fmt: skip
    assert (out.waves, out.evaluations) == (waves, evaluations)


def test_target_network_on_request(random_network):
    x, z, times, labels = batch()
    student, target = random_network(1), random_network(2)
    own, other = (
        read(plain(network=name), student, x, z, times, labels, target=target)[1] for name in ("student", "target")
    )
    assert torch.equal(own[:EQUAL], other[:EQUAL])
    assert ((own - other).abs().max(1).values > 1e-6)[EQUAL + 1 :].all()


def test_defaults_are_the_papers(random_network):
    objective = TiM()
    assert objective.transport == TrigLinear()
    assert (objective.sample_weight, objective.derivative) == (IntervalWeight(1.0, "tangent", 0.5), Central(0.005))
    out = objective(random_network(1), torch.zeros(200, 3).double(), generator=torch.Generator().manual_seed(0))
    assert torch.equal(out.r[:100], out.t[:100])
    assert (out.r[100:] < out.t[100:]).all()
    assert (out.r == 0).sum() == 20


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TiM(network="teacher"), "network must be one of student, target, got 'teacher'"),
        (lambda: TiM(inputs="noise"), "inputs must be one of data, guided, got 'noise'"),
        (lambda: IntervalWeight(0.0), "sigma_data must be a finite number > 0, got 0.0"),
        (lambda: IntervalWeight(1.0, "cosine"), "warp must be one of tangent, odds, identity, got 'cosine'"),
        (lambda: IntervalWeight(1.0, power=-1.0), "power must be a finite number >= 0, got -1.0"),
        (lambda: MixedTarget(0.5, data=math.inf), "guidance data must be a finite number, got inf"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_metric_reaches_the_loss(random_network):
    x, z, times, labels = batch()
    _, R = read(plain(), random_network(1), x, z, times, labels)
    loss = plain(metric=Metric("pseudo_huber", c=0.3))(random_network(1), x, labels, noise=z, times=times).loss
    torch.testing.assert_close(loss.detach(), ((R.square().mean(1) + 0.09).sqrt() - 0.3).mean())
