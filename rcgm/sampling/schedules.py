"""Schedules of times for samplers: falling lists of floats that end at 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise


def check_steps(steps: int) -> int:
    """``steps`` itself, if it is a whole number >= 1."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number >= 1, got {steps!r}")
    return steps


def check_schedule(times: Sequence[float]) -> list[float]:
    """``times`` as floats, if they fall from at most 1 to at least 0."""
    schedule = [float(time) for time in times]
    falls = all(start > end for start, end in pairwise(schedule))
    if len(schedule) < 2 or not falls or schedule[0] > 1 or schedule[-1] < 0:
        raise ValueError(f"times must fall from at most 1 to at least 0, at least two of them, got {schedule}")
    return schedule


def uniform(steps: int) -> list[float]:
    """``steps + 1`` evenly spaced times from 1 to 0."""
    check_steps(steps)
    return [1 - step / steps for step in range(steps + 1)]


def shifted(times: Sequence[float], shift: float) -> list[float]:
    """``shift t/(1 + (shift - 1) t)`` of each time: more steps near the noise for ``shift > 1``."""
    if not 0 < shift < math.inf:
        raise ValueError(f"shift must be a finite number > 0, got {shift!r}")
    # this denominator, and not 1 + (shift - 1) t, which may round the first time above 1
    return [shift * time / (shift * time + (1 - time)) for time in check_schedule(times)]


def kumaraswamy(
    steps: int, a: float = 1.0, b: float = 1.0, c: float = 1.0, gap_start: float = 0.0, gap_end: float = 0.0
) -> list[float]:
    """UCGM-S: ``u`` evenly spaced from ``gap_start`` to ``1 - gap_end``, warped to times as follows, then 0.

    ::

        t_i = 1 - (1 - (1 - u_i^a)^b)^c

    Args:
        steps: evaluations; the schedule has ``steps + 1`` times.
        a, b, c: of the generalised Kumaraswamy transformation, > 0; (1.17, 0.8, 1.1) for multi-step models.
        gap_start, gap_end: left out at the noise and at the data. With ``gap_end = 0`` the last evaluation is at the
            time one even step above 0.

    Raises:
        ValueError: for a value out of range, or a warp so strong that two of the times round to the same number.
    """
    check_steps(steps)
    for name, value in (("a", a), ("b", b), ("c", c)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be a finite number > 0, got {value!r}")
    if not (0 <= gap_start < 1 and 0 <= gap_end < 1 and gap_start + gap_end < 1):
        raise ValueError(f"gap_start and gap_end must be >= 0 and below 1 together, got {gap_start!r} and {gap_end!r}")
    end = 1 - gap_end
    # without a gap at the data the last of steps + 1 even points is the appended 0 itself
    intervals = steps if end == 1 else max(steps - 1, 1)
    points = [gap_start + (end - gap_start) * i / intervals for i in range(steps)]
    times = [1 - (1 - (1 - u**a) ** b) ** c for u in points] + [0.0]
    if not all(start > end for start, end in pairwise(times)):
        got = f"{a!r}, {b!r}, {c!r} and {gap_end!r}"
        raise ValueError(f"a, b, c and gap_end must leave {steps} steps of some length, got {got}")
    return times
