"""RCGM: the N-th order recursive consistent velocity field (math.md section 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rcgm.engine import Queries, Query
from rcgm.objectives.base import Objective, Point, Residual
from rcgm.objectives.guidance import Guidance
from rcgm.times import knots
from rcgm_kernels import advance, recursive_coefficients

POINTS = ("rollout", "jump", "interpolant")
BASES = ("student", "target")
SMALLEST_DT = 1e-6  # below it t - dt may round to t, and the first gap to 0


@dataclass(frozen=True, kw_only=True)
class RCGM(Objective):
    """``R = clamp((1/dt) [(t - r) F(x_t, t, r) - sum_i (t_i - t_{i+1}) F-(x_{t_i}, t_i, t_{i+1})] - v)``.

    These are equations 7 to 9 of the paper. The sign of ``zeta`` follows the gradient of equation 8, not the print of
    equation 9 (math.md section 2).

    Args:
        order: N, the number of segments; 0 is flow matching on the drawn intervals, 2 the paper's default.
        dt: the first gap, from 1e-6 (float32 times resolve 6e-8) to 1; near ``r`` it is cut at ``t - r``.
        points: where the later knots lie. ``"rollout"``: each by a step of the target network, N forwards that depend
            on one another. ``"jump"``: all by jumps from the first, 2 waves at any order. ``"interpolant"``: on the
            straight line between data and noise, 1 wave, biased at orders above 1 (math.md section 5).
        base: whose prediction at ``(x_t, t, r)`` stands in the estimate: ``"student"``, at no cost, or ``"target"``,
            the paper's, one more query in the first wave.
        guidance: training-time guidance; None for none.

    Raises:
        TypeError: for an order that is not a whole number.
        ValueError: for a value out of range.
    """

    order: int = 2
    dt: float = 0.01
    clip: float | None = 1.0
    points: str = "rollout"
    base: str = "student"
    guidance: Guidance | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.order, bool) or not isinstance(self.order, int):
            raise TypeError(f"order must be a whole number, got {self.order!r}")
        if not 0 <= self.order <= 30:
            raise ValueError(f"order must be from 0 to 30, got {self.order!r}")
        if not SMALLEST_DT <= self.dt <= 1:
            raise ValueError(f"dt must be from {SMALLEST_DT} to 1, got {self.dt!r}")
        if self.points not in POINTS:
            raise ValueError(f"points must be one of {', '.join(POINTS)}, got {self.points!r}")
        if self.base not in BASES:
            raise ValueError(f"base must be one of {', '.join(BASES)}, got {self.base!r}")

    def needs_null_condition(self) -> bool:
        return super().needs_null_condition() or self.guidance is not None

    def residual(self, point: Point) -> Queries[Residual]:
        velocity = point.velocity if self.guidance is None else (yield from self.guidance.velocity(point))
        times = knots(point.t, point.r, self.dt, self.order)
        base = [] if self.base == "student" else [Query(point.x_t, point.t, point.r)]
        answers = yield from self._answers(point, velocity, times, base)
        base_coeff, segment_coeffs = recursive_coefficients(times)
        coeffs = torch.cat([segment_coeffs, -torch.ones_like(base_coeff)[None]])
        if not base:
            return Residual([*answers, velocity], coeffs, base_coeff)
        return Residual([*answers, velocity], torch.cat([base_coeff[None], coeffs]), 0.0)

    def _answers(self, point: Point, velocity: Tensor, times: Tensor, base: list[Query]) -> Queries[list[Tensor]]:
        """Answers to ``base`` (which rides in the first wave) and to the N segments."""
        if self.order == 0:
            return (yield base) if base else []
        start = point.equal
        first = advance(point.x_t, velocity, times[0], times[1])
        if self.points == "interpolant":
            later = self.transport.points(point.x, point.z, times[2:-1]).unbind(0) if self.order > 1 else ()
            return (yield base + _segments([first, *later], times, 1, start))
        if self.points == "jump":
            jumps = [Query(first, times[1], times[i], start=start) for i in range(2, max(self.order, 2) + 1)]
            answers = yield base + jumps
            landed = [advance(first, jump, times[1], times[2 + i]) for i, jump in enumerate(answers[len(base) :])]
            rest = (yield _segments(landed, times, 2, start)) if self.order > 1 else []
            return answers[: len(base) + 1] + rest
        answers, x = [], first
        for i in range(1, self.order + 1):
            answers += yield (base if i == 1 else []) + _segments([x], times, i, start)
            x = advance(x, answers[-1], times[i], times[i + 1]) if i < self.order else x
        return answers


def _segments(points: list[Tensor], times: Tensor, first: int, start: int) -> list[Query]:
    """Queries for the segments ``[t_{i+1}, t_i]`` that begin at ``points``, ``i`` counted from ``first``."""
    return [Query(x, times[i], times[i + 1], start=start) for i, x in enumerate(points, first)]
