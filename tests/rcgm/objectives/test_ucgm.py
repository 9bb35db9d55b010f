"""UCGM's residual: its derivative, where it vanishes, its waves and settings."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from rcgm.derivatives import Auto, Central, ForwardMode, OneSided
from rcgm.objectives import UCGM, FlowMatching, SelfEnhancedTarget, TeacherEnhancedTarget, Times, TimeSampler
from rcgm.transports import EDM, Transport, TrigFlow
from rcgm_kernels import Metric
from tests.support.gaussian import problem, states, vanishing
from tests.support.residuals import read
from tests.support.rounding import assert_rounded, rounding_bound
from tests.support.ucgm_algorithm import BATCH, CURVED, HALF_PI, NULL, TRANSPORTS, batch, plain


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
        # the error of the one-sided step 1e-5 times a second derivative of some tens, and a factor of 4
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
            # float64 has next to no rounding to balance: what is left is curvature at steps of a hundredth and more
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
        assert_rounded(R, (-4 * t / torch.sin(HALF_PI * t))[:, None] * df, divided_by=0.01)
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
    assert R.abs().max() < vanishing(times)


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
    assert R.abs().max() < rounding_bound(size=10)


def test_a_teacher_stands_in_for_the_data():
    """With the exact instantaneous prediction as the teacher, any pair on the state gives a residual that vanishes."""
    network, x, z, times = draw(TrigFlow())
    column = times.t[:, None]
    # another pair with the same state: its target is not that of the flow
    x, z = x + torch.sin(HALF_PI * column), z - torch.cos(HALF_PI * column)
    objective = plain(transport=TrigFlow(), derivative=ForwardMode(), supervision="teacher", inputs="guided")
    _, R = read(objective, network, x, z, times, teacher=network)
    assert R.abs().max() < vanishing(times)
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
    # the noise at t = 0 is 0.2% of the data's deviation, and the step is 10 times as much of a rate
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
