"""Shortcut models: one step agrees with two half steps (Frans et al. 2024; math.md section 3)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rcgm.checks import one_of
from rcgm.engine.combination import PREDICTION, Combination, term
from rcgm.engine.queries import SOURCES, TARGET, Queries, Query, together
from rcgm.objectives.base import Objective
from rcgm.objectives.point import Point
from rcgm.objectives.residual import Residual
from rcgm.objectives.times import TimeSampler
from rcgm.transports import Linear


@dataclass(frozen=True, kw_only=True)
class Shortcut(Objective):
    """``R = F(x_t, t, r) - (F-(x_t, t, s) + F-(x_s, s, r))/2``, ``s = (t + r)/2``, ``x_s`` by the first half step.

    Under other transports the prediction is regressed on the one whose step leads where the two half steps lead. Where
    ``r = t`` it is flow matching, in three quarters of the samples as published. The lengths of published intervals are
    powers of two (``interval="dyadic"``, the default). Half of the shortest length is not drawn itself; these half
    steps are learned from ``r = t`` alone. The half steps are those of the target network.

    Args:
        network: whose half steps, ``"target"`` (the EMA) or ``"student"``.

    Raises:
        ValueError: for another network.
    """

    times: TimeSampler = field(default_factory=lambda: TimeSampler(interval="dyadic", equal=0.75))
    network: str = TARGET

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("network", self.network, SOURCES)

    def residual(self, point: Point) -> Queries[Residual]:
        s = (point.t + point.r) / 2
        v, (first, second) = yield from together(self.regression_target(point), self._half_steps(point, s))
        if isinstance(self.transport, Linear):
            composed = 0.5 * (term(first) + term(second))
        else:
            composed = self._composed(point, s, term(first), term(second))
        apart = (point.r < point.t).to(point.t.dtype)
        return Residual(PREDICTION - apart * composed - (1 - apart) * v)

    def _half_steps(self, point: Point, s: Tensor) -> Queries[tuple[Tensor, Tensor]]:
        (first,) = yield [Query(point.x_t, point.t, s, self.network, start=point.equal)]
        x_s = self.transport.move(point.x_t, first, point.t, s)
        (second,) = yield [Query(x_s, s, point.r, self.network, start=point.equal)]
        return first, second

    def _composed(self, point: Point, s: Tensor, first: Combination, second: Combination) -> Combination:
        """The prediction whose step from ``t`` to ``r`` leads where the two half steps lead; 0 where ``r = t``."""
        # float64: short steps leave little of the differences below, which are divided by the length of the step
        t, s, r, step = point.t.double(), s.double(), point.r.double(), self.transport.step
        (A, B), (A_1, B_1), (A_2, B_2) = step(t, r), step(t, s), step(s, r)
        inverse = torch.where(r < t, 1 / torch.where(r < t, B, 1), 0)
        return inverse * ((A_2 * A_1 - A) * term(point.x_t) + A_2 * B_1 * first + B_2 * second)
