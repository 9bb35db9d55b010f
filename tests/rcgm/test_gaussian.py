"""The problem with a known answer (math.md section 5): for Gaussian data the average velocity has a closed form.

Put in place of both networks, it makes the residual of every objective vanish at the rate that its difference formula
promises. Any slip of sign, time, coefficient or transport shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

from rcgm.engine.combination import PREDICTION, term
from rcgm.engine.queries import Query
from rcgm.objectives import RCGM, EnhancedTarget, FlowMatching, Objective, Residual
from rcgm.objectives.times import Times
from rcgm.sampling import sample_any_step
from rcgm_kernels import advance
from tests.support.gaussian import Gaussian, problem, states
from tests.support.rounding import assert_rounded, rounding_bound

BATCH = 512
STEPS = (1e-2, 1e-3, 1e-4)
BASES = ("student", "target")
CLIPS = (None, 1.0)
ORDERS = (1, 2, 3, 4)


PROBLEM = problem()


def draw(equal: int = 0):
    """States of the flow with their times, and the pair of means that rebuilds them."""
    generator = torch.Generator().manual_seed(0)
    t = torch.rand(BATCH, generator=generator, dtype=torch.float64)
    r = t * torch.rand(BATCH, generator=generator, dtype=torch.float64)
    r[:equal] = t[:equal]
    # The interesting ends: the whole interval, one of no length, and one shorter than the first gap.
    t[-3:], r[-3:] = torch.tensor([1.0, 0.6, 0.5]), torch.tensor([0.0, 0.6, 0.499])
    times = Times(t, r, equal)
    return *states(PROBLEM, times), times


def residual(objective: Objective, data, noise, times: Times, network=PROBLEM) -> torch.Tensor:
    """The residual at the exact answer, read from the gradient ``2 R / (D B)``."""
    predictions = []

    def student(x, t, r, cond):
        answer = network(x, t, r)
        if torch.is_grad_enabled():
            predictions.append(answer.requires_grad_())
        return answer

    objective(student, data, target=network, noise=noise, times=times).loss.backward()
    (prediction,) = predictions
    return prediction.grad * prediction.numel() / 2


def largest(objective: Objective, equal: int = 0) -> float:
    _, data, noise, times = draw(equal)
    return residual(objective, data, noise, times).abs().max().item()


def rates(points: str, order: int, base: str, clip: float | None, equal: int = 0) -> list[float]:
    row = [largest(RCGM(points=points, order=order, base=base, clip=clip, dt=dt), equal) for dt in STEPS]
    cells = " ".join(f"{value:9.2e}" for value in row)
    print(f"{points:<12} order {order}  base {base:<8} clip {clip!s:<5} dt = 1e-2, 1e-3, 1e-4: {cells}")
    return row


def test_the_pair_of_means_rebuilds_the_state():
    x_t, data, noise, times = draw()
    t = times.t[:, None]
    assert_rounded(t * noise + (1 - t) * data, x_t)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("points", ["rollout", "jump"])
def test_recursive_residual_vanishes_at_first_order(points, base, clip):
    for order in ORDERS:
        row = rates(points, order, base, clip)
        # Without an error in any of the N segments the rate is that of the one gap, at every order.
        assert 0 < row[0] < 1
        for coarse, fine in pairwise(row):
            assert 9.5 < coarse / fine < 10.5


@pytest.mark.parametrize("points", ["rollout", "jump"])
def test_recursive_residual_vanishes_with_samples_left_out(points):
    row = rates(points, 3, "target", None, equal=BATCH // 3)
    assert 9.5 < row[0] / row[1] < 10.5
    assert 9.5 < row[1] / row[2] < 10.5


@pytest.mark.parametrize("base", BASES)
def test_interpolant_points_are_exact_at_order_one_alone(base):
    one = rates("interpolant", 1, base, None)
    assert all(9.5 < coarse / fine < 10.5 for coarse, fine in pairwise(one))
    for order in ORDERS[1:]:
        row = rates("interpolant", order, base, None)
        # A point on the straight line between data and noise is not on the trajectory: the error grows as 1/dt.
        assert row[0] > 1
        assert all(9 < fine / coarse < 11 for coarse, fine in pairwise(row))
        # The clamp hides the size of the bias, not the bias.
        assert rates("interpolant", order, base, 1.0) == pytest.approx([1.0] * len(STEPS), abs=rounding_bound())


@pytest.mark.parametrize("clip", CLIPS)
def test_flow_matching_vanishes_to_rounding(clip):
    _, data, noise, times = draw()
    values = {
        "flow matching": FlowMatching(clip=clip),
        "order 0": RCGM(order=0, clip=clip),
        "order 0, base target": RCGM(order=0, base="target", clip=clip),
        "order 2 on no interval": RCGM(order=2, clip=clip),
    }
    for name, objective in values.items():
        worst = residual(objective, data, noise, Times(times.t, times.t)).abs().max().item()
        print(f"{name:<24} clip {clip!s:<5} {worst:9.2e}")
        assert worst < rounding_bound()


def test_intervals_shorter_than_the_gap_are_flow_matching():
    x_t, data, noise, times = draw()
    short = Times(times.t, (times.t - 1e-3).clamp(min=0))
    expected = PROBLEM(x_t, short.t, short.r) - (noise - data)
    assert expected.abs().max() > 1e-4
    found = residual(RCGM(order=3, clip=None), data, noise, short)
    assert_rounded(found, expected, divided_by=1e-3)  # the exact network divides by the length of the interval


def test_a_wrong_network_leaves_a_residual():
    _, data, noise, times = draw()
    wrong = residual(
        RCGM(order=2, dt=1e-4, clip=None), data, noise, times, lambda x, t, r, cond=None: 1.01 * PROBLEM(x, t, r)
    )
    assert wrong.abs().max() > 0.02


def test_guided_field_of_two_gaussians():
    """Flow matching's residual at the exact answer is the guidance alone, where it applies."""
    null = Gaussian(PROBLEM.mean - 1, PROBLEM.std * 1.3)
    x_t, data, noise, times = draw()

    def network(x, t, r, cond):
        return torch.where(cond[:, None] == 0, PROBLEM(x, t, r), null(x, t, r))

    predictions = []

    def student(x, t, r, cond):
        predictions.append(network(x, t, r, cond).requires_grad_())
        return predictions[-1]

    objective = RCGM(order=0, clip=None, guidance=EnhancedTarget(1.5, t_min=0.3, t_max=0.8))
    labels, null_cond = torch.zeros(BATCH, dtype=torch.long), torch.tensor([1])
    instant = Times(times.t, times.t)
    objective(student, data, labels, target=network, null_cond=null_cond, noise=noise, times=instant).loss.backward()
    guided = predictions[-1].grad * data.numel() / 2

    t = times.t[:, None]
    inside = (t >= 0.3) & (t <= 0.8)
    expected = -1.5 * torch.where(inside, PROBLEM.velocity(x_t, times.t) - null.velocity(x_t, times.t), 0)
    assert_rounded(guided, expected)


@dataclass(frozen=True, kw_only=True)
class Shortcut(Objective):
    """A method that the library does not have, written as a user would: half steps agree with the whole one."""

    def residual(self, point):
        middle = (point.t + point.r) / 2
        (first,) = yield [Query(point.x_t, point.t, middle)]
        (second,) = yield [Query(advance(point.x_t, first, point.t, middle), middle, point.r)]

        return Residual(PREDICTION - 0.5 * (term(first) + term(second)))


def test_a_new_objective_is_its_formulas():
    worst = largest(Shortcut())
    print(f"shortcut                 {worst:9.2e}")
    *_, times = draw()
    apart = times.t - times.r
    # the exact network divides by the length of the interval
    assert worst < rounding_bound(divided_by=apart[apart > 0].min().item())


@pytest.mark.parametrize(
    "schedule",
    [
        {"steps": 1},
        {"steps": 2},
        {"steps": 7},
        {"times": [1.0, 0.83, 0.2, 0.05, 0.0]},
        {"times": [0.9, 0.3]},
        {"times": (0.5, 0.499, 0.0)},
    ],
    ids=str,
)
def test_sampler_follows_the_exact_map(schedule):
    noise = torch.randn(64, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    times = schedule.get("times", (1.0, 0.0))
    start, end = (torch.full((64,), time, dtype=torch.float64) for time in (times[0], times[-1]))
    exact = PROBLEM.flow(noise, start, end)
    samples = sample_any_step(PROBLEM, noise, **schedule)
    assert_rounded(samples, exact)
