"""alpha-Flow against the program of its authors, written down a second time, and its relative gap at other orders."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from rcgm.config import ConfigError, build_objective_from
from rcgm.derivatives import ForwardMode
from rcgm.objectives import RCGM, AlphaFlow, AlphaSchedule, Consistency, MeanFlow, MixedTarget
from rcgm.objectives.times import Times
from rcgm.transports import TrigFlow
from rcgm_kernels import AdaptiveWeight
from tests.support.configurations import parse
from tests.support.gaussian import problem, states
from tests.support.plain import Smooth, assert_same, batch
from tests.support.residuals import read
from tests.support.rounding import assert_rounded

T = torch.tensor([0.9, 0.4, 1.0, 0.75, 0.5, 0.25, 0.625, 1.0], dtype=torch.float64)
R = torch.tensor([0.9, 0.4, 0.0, 0.5, 0.1, 0.0, 0.6, 0.3], dtype=torch.float64)
EQUAL = 2
EPS = 1e-3
LABELS, NULL = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2]), 5


def program(x, z, alpha, *, adaptive=True, labels=None, omega=1.0, kappa=0.0):
    """The loss as the authors' program has it: samples with ``dt = 0`` are its continuous half, the others discrete."""

    def loss(network):
        t, r = T[:, None], R[:, None]
        dt = alpha * (t - r)
        x_t = (1 - t) * x + t * z
        with torch.no_grad():
            v = z - x
            if kappa:
                nulls = torch.full_like(labels, NULL)
                without = (1 - omega - kappa) * network(x_t, T, T, nulls)
                v = omega * v + kappa * network(x_t, T, T, labels) + without
            discrete = dt[:, 0] > 0
            mean_velocity = v.clone()
            # alpha = 0: the identity of MeanFlow
            _, dudt = torch.func.jvp(
                lambda x, t: network(x, t, R, labels), (x_t, T), (v, torch.ones_like(T))
            )  # fmt: skip
            mean_velocity[~discrete] = (v - (t - r) * dudt)[~discrete]
            behind = network(x_t - dt * v, T - dt[:, 0], R, labels)
            averaged = (dt * v + (t - dt - r) * behind) / (t - r)
            mean_velocity[discrete] = averaged[discrete]
        squared = (network(x_t, T, R, labels) - mean_velocity).square().mean(1)
        share = torch.where(discrete, torch.full_like(T, alpha), 1)
        if not adaptive:  # the loss of the paper, for samples with an interval
            return (squared / share).mean()
        return (share / (squared.detach() + EPS) * squared).mean()

    return loss


# the program's norm in its weight is a mean over the D = 3 elements, ours is the sum
PUBLISHED = {"adaptive": AdaptiveWeight(1.0, 3 * EPS), "reduce": "sum"}


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("alpha", [1.0, 0.7, 0.5, 0.1, 0.005])
def test_loss_and_gradient_are_those_of_the_program(alpha, adaptive):
    (x, z), student = batch(), Smooth(1)
    objective = AlphaFlow(alpha=alpha, **(PUBLISHED if adaptive else {"adaptive": None}))
    expected = program(x, z, alpha, adaptive=adaptive)
    shortest = alpha * (T - R)[EQUAL:].min().item()
    assert_same(objective, expected, student, x, noise=z, times=Times(T, R, EQUAL), divided_by=shortest)


def test_the_schedule_ends_with_mean_flow():
    (x, z), student = batch(), Smooth(1)
    schedule = AlphaSchedule(begin=10, end=20)
    ended = AlphaFlow(alpha=schedule, derivative=ForwardMode(), **PUBLISHED)
    arguments = {"noise": z, "times": Times(T, R, EQUAL), "step": 21}
    assert_same(ended, program(x, z, 0.0), student, x, **arguments)
    mean_flow = MeanFlow(derivative=ForwardMode(), **PUBLISHED)
    assert_rounded(ended(student, x, **arguments).loss, mean_flow(student, x, **arguments).loss)
    kept = AlphaFlow(alpha=schedule, limit=False, **PUBLISHED)
    shortest = schedule.floor * (T - R)[EQUAL:].min().item()
    assert_same(kept, program(x, z, schedule.floor), student, x, **arguments, divided_by=shortest)


def test_its_guidance_is_that_of_mean_flow():
    (x, z), student = batch(), Smooth(1)
    guided = AlphaFlow(alpha=0.3, guidance=MixedTarget(0.92, data=0.2, network="student"), **PUBLISHED)
    expected = program(x, z, 0.3, labels=LABELS, omega=0.2, kappa=0.92)
    times = Times(T, R, EQUAL)
    shortest = 0.3 * (T - R)[EQUAL:].min().item()
    assert_same(
        guided, expected, student, x, LABELS, null_cond=torch.tensor([NULL]), noise=z, times=times, divided_by=shortest
    )


@pytest.mark.parametrize("order", [1, 2, 4])
def test_a_relative_gap_is_the_gap_of_each_sample(order):
    """Sample by sample it is RCGM with ``dt = alpha (t - r)``; alpha-Flow multiplies its residual by alpha."""
    (x, z), student, target = batch(), Smooth(1), Smooth(2)
    alpha = 0.2
    together = RCGM(order=order, alpha=alpha, clip=None)
    _, residual = read(together, student, x, z, Times(T, R, EQUAL), target=target)
    for i in range(EQUAL, len(T)):
        one = slice(i, i + 1)
        gap = alpha * (T - R)[i].item()
        alone = RCGM(order=order, dt=gap, clip=None)
        _, expected = read(alone, student, x[one], z[one], Times(T[one], R[one]), target=target)
        assert_rounded(residual[one], expected, divided_by=gap)
    plain = AlphaFlow(order=order, alpha=alpha, network="target", adaptive=None)
    loss = plain(student, x, target=target, noise=z, times=Times(T, R, EQUAL)).losses
    share = torch.where(T > R, torch.full_like(T, alpha), 1)
    assert_rounded(loss, share * residual.square().mean(1), divided_by=alpha * (T - R)[EQUAL:].min().item())


@pytest.mark.parametrize("transport", [None, TrigFlow()])
@pytest.mark.parametrize("order", [1, 2])
def test_the_residual_vanishes_at_the_exact_network_as_alpha_does(order, transport):
    gaussian = problem(transport)
    t = torch.linspace(0.2, 0.95, 64, dtype=torch.float64)
    times = Times(t, 0.4 * t)
    _, x, z = states(gaussian, times)
    row = []
    for alpha in (1e-2, 1e-3, 1e-4):
        recursive = RCGM(order=order, alpha=alpha, clip=None, transport=gaussian.transport)
        _, residual = read(recursive, gaussian, x, z, times, target=gaussian)
        row.append(residual.abs().max().item())
    for coarse, fine in pairwise(row):
        assert 9 < coarse / fine < 11


def test_the_limit_vanishes_at_the_exact_network():
    gaussian = problem()
    t = torch.linspace(0.2, 0.95, 64, dtype=torch.float64)
    times = Times(t, 0.4 * t)
    _, x, z = states(gaussian, times)
    ended = AlphaFlow(alpha=AlphaSchedule(end=1), adaptive=None, derivative=ForwardMode())
    _, residual = read(ended, gaussian, x, z, times, step=2)
    assert_rounded(residual, torch.zeros_like(x))


def test_at_the_whole_interval_nothing_is_asked():
    (x, z), student = batch(), Smooth(1)
    for whole in (RCGM(alpha=1.0), AlphaFlow(alpha=AlphaSchedule(begin=5, end=9)), AlphaFlow(order=3, alpha=1.0)):
        out = whole(student, x, noise=z, times=Times(T, R, EQUAL))
        assert (out.waves, out.evaluations) == (0, 0)
    assert AlphaFlow(alpha=0.5)(student, x, noise=z, times=Times(T, R, EQUAL)).evaluations == 1


def test_the_schedule():
    schedule = AlphaSchedule(begin=100, end=300, sharpness=25.0, floor=0.005)
    assert [schedule(step) for step in (0, 99, 100, 150, 301, 10**6)] == [1.0, 1.0, 1.0, 1.0, 0.005, 0.005]
    for step in (190, 200, 210):
        assert schedule(step) == pytest.approx(1 - 1 / (1 + math.exp(-25 * ((step - 100) / 200 - 0.5))))
    values = [schedule(step) for step in range(400)]
    assert all(later <= earlier for earlier, later in pairwise(values))
    assert min(values) == 0.005


def test_a_gap_that_times_cannot_tell_apart_is_longer():
    """In float32 as in training: the residual stays finite and of the size of the predictions."""
    (x, z), student = batch(), Smooth(1).float()
    t = torch.full((len(T),), 0.9)
    r = t - torch.tensor([1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.9])
    out = RCGM(alpha=0.005, clip=None)(student, x.float(), noise=z.float(), times=Times(t, r))
    assert out.losses.isfinite().all()


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: RCGM(alpha=0.0), ValueError, "alpha must be positive and finite, got 0.0"),
        (lambda: RCGM(alpha=1.5), ValueError, "alpha must be at most 1, which is the whole interval, got 1.5"),
        (lambda: RCGM(alpha="0.5"), TypeError, "alpha must be a number, got '0.5'"),
        (lambda: AlphaFlow(alpha=None), TypeError, "alpha must be a number, got None"),
        (lambda: AlphaSchedule(begin=5, end=5), ValueError, "alpha end must be after begin, 5, got 5"),
        (lambda: AlphaSchedule(begin=-1), ValueError, "alpha begin must be at least 0, got -1"),
        (lambda: AlphaSchedule(end=2.5), TypeError, "alpha end must be an int, got 2.5"),
        (lambda: AlphaSchedule(sharpness=0.0), ValueError, "alpha sharpness must be positive and finite, got 0.0"),
        (lambda: AlphaSchedule(floor=0.0), ValueError, "alpha floor must be above 0 and at most 0.5, got 0.0"),
        (lambda: Consistency(alpha=0.1, segments=(2, 8)), ValueError, "segments must be None with alpha"),
    ],
)
def test_bad_settings(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_a_configuration_names_it():
    words = "objective={name: alpha_flow, alpha: {end: 3000, floor: 0.01}, order: 2}"
    found = build_objective_from(parse(words))
    assert found == AlphaFlow(alpha=AlphaSchedule(end=3000, floor=0.01), order=2)
    assert build_objective_from(parse("objective.alpha=0.25")) == RCGM(alpha=0.25)
    assert build_objective_from(parse("objective={name: rcgm, alpha: {begin: 5}}")) == RCGM(alpha=AlphaSchedule(5))
    for words, message in (
        ("objective={name: alpha_flow, alpha: {ends: 3}}", "objective.alpha.ends"),
        ("objective={name: alpha_flow, alpha: {end: 0}}", "alpha end must be at least 1, got 0"),
        ("objective={name: alpha_flow, alpha: half}", "objective.alpha"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_objective_from(parse(words))
