"""The chosen step: how good it is, and what choosing it costs."""

import math

import pytest

from rcgm.derivatives import Auto
from tests.support.noisy import Noisy, best_fixed, draw, error, run

CASES = [(1e-2, 3.0), (1e-3, 3.0), (1e-2, 10.0), (1e-4, 10.0), (1e-3, 25.0), (1e-7, 10.0)]


@pytest.mark.parametrize(("noise", "frequency"), CASES)
@pytest.mark.parametrize("evaluations", [2, 4])
def test_near_the_best_fixed_step_from_the_first_call(noise, frequency, evaluations):
    t, r = draw()
    network = Noisy(noise, frequency)
    best = best_fixed(network, t, r)
    estimator = Auto(evaluations)
    assert error(estimator, network, t, r) < 1.5 * best
    best = best_fixed(network, t, r, evaluations)
    assert error(estimator, network, t, r) < 1.5 * best


def test_four_evaluations_beat_two():
    t, r = draw()
    network = Noisy(1e-3, 10.0)
    errors = []
    for evaluations in (2, 4):
        estimator = Auto(evaluations)
        run(estimator, network, t, r)
        errors.append(error(estimator, network, t, r))
    assert errors[1] < 0.5 * errors[0]


def test_steps_by_range_of_time():
    """Where the curvature grows fifty-fold with time, one step for all times is worse."""
    t, r = draw(256, inside=False)
    keep = (t > 0.15) & (t < 0.85) & (t - r > 0.15)
    t, r = t[keep], r[keep]
    network = Noisy(1e-3, 3.0, by_time=2.0)
    errors = {}
    for bins in (1, 8):
        estimator = Auto(bins=bins)
        run(estimator, network, t, r)
        errors[bins] = error(estimator, network, t, r)
    assert errors[8] < 0.9 * errors[1]
    assert errors[8] < best_fixed(network, t, r)


def test_it_follows_a_network_that_changes():
    t, r = draw()
    estimator = Auto(every=8)
    network = Noisy(1e-2, 10.0)
    for _ in range(9):
        run(estimator, network, t, r)
    before = estimator.report()["derivative_step"]
    network.noise = 1e-3
    for _ in range(200):
        run(estimator, network, t, r)
    after = estimator.report()["derivative_step"]
    # the best step goes as the cube root of the noise; it is estimated, to a quarter (0.1 of a decade)
    assert math.log10(before / after) == pytest.approx(1 / 3, abs=0.1)
    assert error(estimator, network, t, r) < 1.5 * best_fixed(network, t, r)


# What it costs


def test_when_it_measures_and_what_that_asks():
    t, r = draw(32)
    network = Noisy(1e-3)
    estimator = Auto(every=10)
    levels = len(estimator.state().steps)
    for _ in range(31):
        run(estimator, network, t, r)
    extra = {call: size - 64 for call, size in enumerate(network.sizes) if size != 64}
    assert extra == {0: 32 * 2 * levels - 64, **dict.fromkeys([1, 2, 4, 8, 10, 20, 30], 4 * 2 * levels)}


@pytest.mark.parametrize("batch", [8, 64, 256])
def test_it_costs_less_than_a_hundredth(batch):
    t, r = draw(batch)
    network, estimator = Noisy(1e-3), Auto()
    estimator.state().calls = estimator.every
    for _ in range(estimator.every):
        run(estimator, network, t, r)
    extra = sum(network.sizes) - 2 * batch * estimator.every
    five_forwards = 5 * batch * estimator.every
    assert 0 < extra < 0.01 * five_forwards


def test_samples_that_are_left_out_are_not_measured():
    t, r = draw(16)
    network, estimator = Noisy(1e-3), Auto()
    levels = len(estimator.state().steps)
    answer = run(estimator, network, t, r, start=6).value()
    assert network.sizes == [10 * 2 * levels]
    assert not answer[:6].any()
    run(estimator, network, t, r, start=14)
    assert network.sizes[1:] == [2 * 2 + 2 * 2 * levels]
    calls = estimator.state().calls
    assert not run(estimator, network, t, r, start=16).value().any()
    assert (len(network.sizes), estimator.state().calls) == (2, calls)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"evaluations": 3}, "evaluations must be 2 or 4, got 3"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"bins": 0}, "bins must be at least 1, got 0"),
        ({"fraction": 0.0}, "fraction must be above 0"),
        ({"decay": 1.0}, "decay must be at least 0 and below 1"),
        ({"largest": 0.6}, "largest of a difference must be above 0"),
        ({"smallest": 0.1}, "smallest of a difference must be above 0"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        Auto(**arguments)
