"""Schedules: falling times that end at 0."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcgm.sampling.schedules import check_schedule, check_steps, kumaraswamy, shifted, uniform

AUTO = (1.17, 0.8, 1.1)
parameters = st.floats(0.5, 2.5)
gaps = st.just(0.0) | st.floats(1e-4, 0.45)


def falls(times):
    return all(isinstance(time, float) for time in times) and all(start > end for start, end in pairwise(times))


def test_uniform():
    assert uniform(1) == [1, 0]
    assert uniform(4) == [1, 0.75, 0.5, 0.25, 0]
    assert falls(uniform(1000))


@given(st.integers(1, 60), parameters, parameters, parameters, gaps, gaps)
def test_kumaraswamy_falls_to_0(steps, a, b, c, gap_start, gap_end):
    times = kumaraswamy(steps, a, b, c, gap_start, gap_end)
    assert len(times) == steps + 1
    assert falls(times)
    assert times[0] <= 1
    assert times[-1] == 0
    assert check_schedule(times) == times


def test_kumaraswamy_without_a_warp_is_even():
    assert kumaraswamy(4) == pytest.approx(uniform(4))
    assert kumaraswamy(4, gap_start=0.2) == pytest.approx([0.8, 0.6, 0.4, 0.2, 0])
    assert kumaraswamy(4, gap_start=0.1, gap_end=0.3) == pytest.approx([0.9, 0.7, 0.5, 0.3, 0])
    # UCGM table 5: few-step models at {1, 0.3} and {1, 0.5}
    assert kumaraswamy(2, gap_end=0.3) == pytest.approx([1, 0.3, 0])
    assert kumaraswamy(1, gap_end=0.3) == [1, 0]


def test_kumaraswamy_warps_each_time():
    a, b, c = AUTO
    expected = [1 - (1 - (1 - (i / 10) ** a) ** b) ** c for i in range(10)]
    assert kumaraswamy(10, *AUTO) == pytest.approx([*expected, 0], abs=1e-12)


@given(st.integers(1, 60), st.floats(0.05, 20))
def test_shift(steps, shift):
    times = shifted(uniform(steps), shift)
    assert (times[0], times[-1]) == (1, 0)
    assert falls(times)
    expected = [shift * t / (1 + (shift - 1) * t) for t in uniform(steps)]
    assert times == pytest.approx(expected, rel=1e-9)
    # its inverse is the shift by 1/shift
    assert shifted(times, 1 / shift) == pytest.approx(uniform(steps), abs=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: uniform(0), "steps must be a whole number >= 1, got 0"),
        (lambda: uniform(True), "steps must be a whole number >= 1, got True"),
        (lambda: kumaraswamy(2.0), "steps must be a whole number >= 1, got 2.0"),
        (lambda: check_steps("3"), "steps must be a whole number >= 1, got '3'"),
        (lambda: kumaraswamy(3, a=0), "a must be a finite number > 0, got 0"),
        (lambda: kumaraswamy(3, b=math.inf), "b must be a finite number > 0, got inf"),
        (lambda: kumaraswamy(3, c=math.nan), "c must be a finite number > 0, got nan"),
        (lambda: kumaraswamy(3, gap_start=-0.1), "gap_start and gap_end must be >= 0 and below 1 together"),
        (lambda: kumaraswamy(3, gap_start=0.5, gap_end=0.5), "below 1 together, got 0.5 and 0.5"),
        (lambda: kumaraswamy(100, a=50.0), "must leave 100 steps of some length, got 50.0, 1.0, 1.0 and 0.0"),
        (lambda: shifted([1, 0], 0), "shift must be a finite number > 0, got 0"),
        (lambda: shifted([1, 0], math.nan), "shift must be a finite number > 0, got nan"),
        (lambda: shifted([0, 1], 2), "times must fall from at most 1 to at least 0"),
        (lambda: check_schedule([1.0]), "at least two of them"),
        (lambda: check_schedule([1.1, 0]), "times must fall from at most 1"),
        (lambda: check_schedule([1, -0.1]), "to at least 0"),
        (lambda: check_schedule([1, 0.5, 0.5, 0]), "times must fall"),
        (lambda: check_schedule([1, math.nan, 0]), "times must fall"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        call()
