"""Shortcut models against their algorithm (Frans et al. 2024, algorithm 1), in plain tensors."""

from __future__ import annotations

import pytest
import torch

from rcgm.objectives import Shortcut
from rcgm.objectives.times import Times
from rcgm.transports import TrigFlow
from tests.support.plain import Smooth, assert_same, batch
from tests.support.rounding import assert_rounded

T = torch.tensor([0.9, 0.4, 1.0, 0.75, 0.5, 0.25, 0.625, 1.0], dtype=torch.float64)
D = torch.tensor([0.0, 0.0, 1.0, 0.25, 0.5, 0.125, 0.125, 0.5], dtype=torch.float64)
EQUAL = 2


def algorithm(x, z, ema):
    """One sample at a time; the paper's ``d`` is the length of the step, its first share the flow-matching targets."""

    def loss(network):
        total = 0.0
        for i in range(len(T)):
            t, d = T[i : i + 1], D[i : i + 1]
            x_t = (1 - t) * x[i : i + 1] + t * z[i : i + 1]
            with torch.no_grad():
                if d == 0:
                    target = z[i : i + 1] - x[i : i + 1]
                else:
                    first = ema(x_t, t, t - d / 2)
                    halfway = x_t - d / 2 * first
                    target = (first + ema(halfway, t - d / 2, t - d)) / 2
            total = total + (network(x_t, t, t - d) - target).square().mean()
        return total / len(T)

    return loss


@pytest.mark.parametrize("source", ["target", "student"])
def test_loss_and_gradient_are_those_of_the_algorithm(source):
    (x, z), student, ema = batch(), Smooth(1), Smooth(2)
    half_steps = ema if source == "target" else student
    objective = Shortcut(network=source)
    assert_same(objective, algorithm(x, z, half_steps), student, x, target=ema, noise=z, times=Times(T, T - D, EQUAL))


def test_under_a_curved_transport_both_ways_end_in_the_same_state():
    (x, z), student, ema = batch(), Smooth(1), Smooth(2)
    transport, t, r = TrigFlow(), T[EQUAL:], (T - D)[EQUAL:]
    x_t = transport.points(x, z, T[None])[0][EQUAL:]
    s = (t + r) / 2
    middle = transport.move(x_t, ema(x_t, t, s), t, s)
    end = transport.move(middle, ema(middle, s, r), s, r)
    carried, moved = (value[:, None] for value in transport.step(t, r))
    target = ((end - carried * x_t) / moved).detach()

    def loss(network):
        rest = (network(x_t, t, r) - target).square().mean(1).sum()
        first, point = T[:EQUAL], transport.path(x, z, T)
        return (rest + (network(point[0][:EQUAL], first, first) - point[2][:EQUAL]).square().mean(1).sum()) / len(T)

    times = Times(T, T - D, EQUAL)
    assert_same(Shortcut(transport=transport), loss, student, x, target=ema, noise=z, times=times)


def test_published_intervals_are_powers_of_two():
    drawn = Shortcut().times.sample(4000, generator=torch.Generator().manual_seed(0), device="cpu")
    assert drawn.equal == 3000
    length = (drawn.t - drawn.r)[3000:]
    assert set(length.log2().tolist()) == {-float(k) for k in range(8)}
    assert ((drawn.r[3000:] / length) % 1 == 0).all()
    # the deviation of 3,000 uniform numbers errs by 0.8% (one standard deviation)
    assert drawn.t[:3000].std() == pytest.approx(12**-0.5, rel=0.05)


def test_short_steps_keep_their_digits_under_a_curved_transport():
    (x, z), network, losses = batch(), Smooth(1), []
    for dtype in (torch.float32, torch.float64):
        t = torch.full((len(T),), 0.5, dtype=dtype)
        objective, times = Shortcut(transport=TrigFlow()), Times(t, t - 2.0**-10)
        network = network.to(dtype)
        output = objective(network, x.to(dtype), target=network, noise=z.to(dtype), times=times)
        losses.append(output.loss.double())
    # the loss is of order 1; differences are divided by the length, 2^-10, but in float64
    assert_rounded(*losses, dtype=torch.float32)


def test_the_teachers_target_rides_in_a_wave_of_the_half_steps():
    (x, z), student, teacher = batch(), Smooth(1), Smooth(2)
    times = Times(T, T - D, EQUAL)
    distilled = Shortcut(supervision="teacher")(student, x, target=student, teacher=teacher, noise=z, times=times)
    assert distilled.waves == Shortcut()(student, x, target=student, noise=z, times=times).waves == 2


def test_a_network_that_is_not_there():
    with pytest.raises(ValueError, match="network must be one of student, target, got 'ema'"):
        Shortcut(network="ema")
