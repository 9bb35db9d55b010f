"""Flow matching (Lipman et al. 2022; SiT): the instantaneous velocity, order 0 of the family."""

from __future__ import annotations

from dataclasses import dataclass, field

from rcgm.engine import Queries
from rcgm.objectives.base import Objective, Point, Residual
from rcgm.times import TimeSampler


@dataclass(frozen=True, kw_only=True)
class FlowMatching(Objective):
    """``R = F(x_t, t, t) - v``."""

    times: TimeSampler = field(default_factory=lambda: TimeSampler(interval="equal"))

    def residual(self, point: Point) -> Queries[Residual]:
        return Residual([point.velocity], -point.t.new_ones((1, *point.t.shape)))
        yield  # a generator, as every objective is, though one that asks nothing
