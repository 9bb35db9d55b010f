"""Consistency models in discrete time (Song et al. 2023; improved training, Song and Dhariwal 2023)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from rcgm.checks import whole_number
from rcgm.engine.queries import STUDENT
from rcgm.objectives.gaps import SMALLEST_GAP
from rcgm.objectives.rcgm import RCGM
from rcgm.objectives.times import TimeSampler

MOST_SEGMENTS = round(1 / SMALLEST_GAP)


@dataclass(frozen=True, kw_only=True)
class Consistency(RCGM):
    """``R = (1/dt) [t F(x_t, t, 0) - (t - dt) F-(x_{t-dt}, t - dt, 0)] - v``.

    This is ``RCGM.residual`` at order 1 and ``r = 0``, with a ``dt`` that may shrink in training. ``x_{t-dt}`` is on
    the path of data and noise (training), or one step of the teacher away (distillation, ``supervision="teacher"``).
    The consistency function is the step to ``r = 0``. The network without gradient is the student itself, as in
    improved training; ``network="target"`` is the EMA of the first paper.

    The papers choose among discretised times and compare the two ends of a gap in units of the data, with weight
    ``1/dt``. Here ``t`` is drawn from the whole of [0, 1], and a gap that would pass 0 is cut there. The residual is in
    units of the prediction, so that it contains ``1/dt``, and the gradient to ``F`` lacks the factor ``t`` of the
    papers (math.md section 3). Their pseudo-Huber constant ``c sqrt(D)`` becomes ``c/dt``.

    Args:
        dt: the gap, if ``segments`` is None.
        segments: number of gaps of [0, 1] at the beginning and at the end of training, such as (10, 1280), up to 1e6.
            It doubles at equal numbers of steps (the curriculum of the improved paper).
        curriculum_steps: training steps over which it grows, at least 1.
        clip: bound of the residual, as in RCGM; the papers have none (None).

    Raises:
        TypeError: for numbers of segments or steps that are not whole.
        ValueError: for an order other than 1, for a self-adversarial term, or for segments that do not grow or are
            shorter than 1e-6.
    """

    sampler: ClassVar[str] = "consistency"

    times: TimeSampler = field(default_factory=lambda: TimeSampler(interval="zero"))
    order: int = 1
    network: str = STUDENT
    segments: tuple[int, int] | None = None
    curriculum_steps: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order != 1:
            raise ValueError(f"order of a consistency model must be 1, got {self.order!r}; rcgm has higher orders")
        if self.self_adversarial is not None:
            raise ValueError("self_adversarial must be None for a consistency model, which does not learn velocities")
        if self.segments is not None:
            for number in self.segments:
                whole_number("segments", number)
            if self.alpha is not None:
                raise ValueError(f"segments must be None with alpha, which is the gap too, got {self.segments!r}")
            if len(self.segments) != 2 or not self.segments[0] <= self.segments[1] <= MOST_SEGMENTS:
                raise ValueError(
                    f"segments must be two growing numbers from 1 to {MOST_SEGMENTS}, got {self.segments!r}"
                )
        whole_number("curriculum_steps", self.curriculum_steps)

    def gap(self, step: int) -> float:
        if self.segments is None:
            return self.dt
        first, last = self.segments
        doublings = _doublings(first, last)
        done = min(step * (doublings + 1) // self.curriculum_steps, doublings)
        return 1 / min(first * 2**done, last)


def _doublings(first: int, last: int) -> int:
    """Number of doublings from ``first`` until ``last`` is reached."""
    count = 0
    while first * 2**count < last:
        count += 1
    return count
