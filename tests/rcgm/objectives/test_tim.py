"""TiM's identity: where it vanishes, how far it is from that, its waves, settings and the ends of the times."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from rcgm.derivatives import Central, ForwardMode, OneSided
from rcgm.objectives import FlowMatching, IntervalWeight, MixedTarget, TiM, Times
from rcgm.transports import Linear, Transport, TrigFlow, TrigLinear
from rcgm_kernels import Metric
from tests.support.gaussian import problem, states, vanishing
from tests.support.residuals import edge_cases, read
from tests.support.rounding import assert_rounded, rounding_bound
from tests.support.tim_algorithm import BATCH, EQUAL, NULL, PI, RANGE, TABLE, batch


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
    assert_rounded(R, expected)


def test_no_interval_is_flow_matching(random_network):
    x, z, times, labels = batch()
    student, instant = random_network(1), Times(times.t, times.t, BATCH)
    for transport in (Linear(), TrigFlow(), TrigLinear()):
        ours = plain(transport=transport)(student, x, labels, noise=z, times=instant)
        expected = FlowMatching(transport=transport)(student, x, labels, noise=z, times=instant)
        assert_rounded(ours.loss, expected.loss, roundings=100)  # of the sums over 36 elements
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
        # the error of the one-sided step 1e-5 times a second derivative of some tens, and B/B' up to 10
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
    assert R.abs().max() < vanishing(times)


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
    assert (R.abs().max() < vanishing(times)) == (guided == "guided")
    assert out.waves == (2 if guided == "guided" else 1)


def test_residual_is_kept_small_where_the_derivative_of_b_vanishes():
    """TrigFlow from t = 1 to r = 0: ``B/B'`` has no limit; residual and loss are scaled down, and at t = 1 to 0."""
    transport = TrigFlow()
    t = torch.tensor([1.0, 1 - 1e-9, 1 - 1e-6, 1 - 1e-3, 0.9], dtype=torch.float64)
    times = Times(t, torch.zeros_like(t))
    network = problem(transport)
    _, x, z = states(network, times)
    objective = plain(transport=transport, derivative=ForwardMode())
    _, exact = read(objective, network, x, z, times)
    # the factor of the residual is at most 1000, and float64 resolves the distance of 1e-9 from 1 to 1e-7
    assert exact.abs().max() < rounding_bound(size=1e3, divided_by=1e-3)

    def shifted(x, t, r, cond):
        return network(x, t, r) + t[:, None] ** 2

    _, R = read(objective, shifted, x, z, times)
    assert R.isfinite().all()
    # (F - T) + (B/B') (dF/dt - T') for the shift alone, before it is scaled
    ratio = torch.tan(PI / 2 * t) / (PI / 2)
    unscaled = t**2 + ratio * 2 * t
    scale = (1e3 / ratio).clamp(max=1)
    expected = (unscaled * scale * scale)[:, None].expand_as(R)  # residual and loss are both scaled
    assert_rounded(R, expected, divided_by=1e-3)  # B/B' is up to 1000
    assert (ratio > 1e3).tolist() == [True, True, True, False, False]


EDGES = [0.0, 1e-30, 1e-12, 1e-7, 1e-4, 0.004, 0.5, 0.9999999, 1.0]


@pytest.mark.parametrize("row", TABLE)
@pytest.mark.parametrize("derivative", [Central(), OneSided()], ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("warp", ["tangent", "odds"])
def test_every_time_is_finite_in_float32(warp, derivative, row, random_network):
    x, z, t, r = edge_cases(EDGES)
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
