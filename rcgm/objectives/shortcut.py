"""Shortcut models: one step agrees with two half steps (Frans et al. 2024; math.md section 3)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rcgm.engine.combination import PREDICTION, term
from rcgm.engine.queries import STUDENT, TARGET, Queries, Query, together
from rcgm.objectives.base import Objective
from rcgm.objectives.point import Point
from rcgm.objectives.residual import Residual
from rcgm.objectives.times import TimeSampler

SOURCES = (STUDENT, TARGET)


@dataclass(frozen=True, kw_only=True)
class Shortcut(Objective):
    """``R = F(x_t, t, r) - (F-(x_t, t, s) + F-(x_s, s, r))/2``, ``s = (t + r)/2``, ``x_s`` by the first half step.

    Under other transports the prediction is regressed on the one whose step leads where the two half steps lead. Where
    ``r = t`` it is flow matching; the published share is three quarters. Published intervals are powers of two
    (``interval="dyadic"``, the default; at the shortest, half steps are of lengths never trained on their own and rest
    on ``r = t``). The half steps are the target network's.

    Args:
        network: whose half steps, ``"target"`` (the EMA) or ``"student"``.

    Raises:
        ValueError: for another network.
    """

    times: TimeSampler = field(default_factory=lambda: TimeSampler(interval="dyadic", equal=0.75))
    network: str = TARGET

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network not in SOURCES:
            raise ValueError(f"network must be one of {', '.join(SOURCES)}, got {self.network!r}")

    def residual(self, point: Point) -> Queries[Residual]:
        middle = (point.t + point.r) / 2
        target, (first, second) = yield from together(self.target(point), self._half_steps(point, middle))
        # float64: short steps leave little of the differences below, which are divided by the length of the step
        t, s, r, step = point.t.double(), middle.double(), point.r.double(), self.transport.step
        carried, moved = step(t, r)
        (carried_first, moved_first), (carried_second, moved_second) = step(t, s), step(s, r)
        apart = (r < t).to(t.dtype)
        inverse = apart / torch.where(r < t, moved, 1)
        composed = (carried_second * carried_first - carried) * inverse * term(point.x_t)
        composed += carried_second * moved_first * inverse * term(first) + moved_second * inverse * term(second)
        return Residual(PREDICTION - composed - (1 - apart) * target)

    def _half_steps(self, point: Point, middle: Tensor) -> Queries[tuple[Tensor, Tensor]]:
        (first,) = yield [Query(point.x_t, point.t, middle, self.network, start=point.equal)]
        x_s = self.transport.move(point.x_t, first, point.t, middle)
        (second,) = yield [Query(x_s, middle, point.r, self.network, start=point.equal)]
        return first, second
