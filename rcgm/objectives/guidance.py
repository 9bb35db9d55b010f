"""Guidance at training time: the enhanced target (UCGM section 3.3, RCGM section 3.3; math.md section 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rcgm.engine import Queries, Query
from rcgm.objectives.base import Point


@dataclass(frozen=True)
class Guidance:
    """Replaces the velocity ``v`` by ``v + scale (F_cond - F_null)`` where ``t_min <= t <= t_max``.

    Both estimates are the target network's instantaneous velocities at ``x_t``. Samples whose condition was dropped
    keep ``v``. The student learns the guided field, so that sampling needs one forward a step.

    Raises:
        ValueError: unless ``0 <= t_min <= t_max <= 1`` and ``scale`` is finite and >= 0.
    """

    scale: float
    t_min: float = 0.0
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(f"guidance scale must be a finite number >= 0, got {self.scale!r}")
        if not 0 <= self.t_min <= self.t_max <= 1:
            raise ValueError(f"guidance needs 0 <= t_min <= t_max <= 1, got {self.t_min!r} and {self.t_max!r}")

    def velocity(self, point: Point) -> Queries[Tensor]:
        """The guided velocity, by one wave of two queries."""
        with_cond, with_null = yield [
            Query(point.x_t, point.t, point.t),
            Query(point.x_t, point.t, point.t, null=True),
        ]
        inside = (point.t >= self.t_min) & (point.t <= self.t_max)
        if point.dropped is not None:
            inside &= ~point.dropped
        inside = inside.reshape(-1, *[1] * (point.x_t.ndim - 1))
        guided = point.velocity + self.scale * (with_cond - with_null)
        return torch.where(inside, guided, point.velocity)
