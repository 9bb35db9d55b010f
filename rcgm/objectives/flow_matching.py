"""Flow matching (Lipman et al. 2022; SiT): the instantaneous prediction, order 0 of the family."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from rcgm.combination import PREDICTION
from rcgm.objectives.base import Objective
from rcgm.objectives.point import Point
from rcgm.objectives.residual import Residual
from rcgm.queries import Queries
from rcgm.times import TimeSampler


@dataclass(frozen=True, kw_only=True)
class FlowMatching(Objective):
    """``R = F(x_t, t, t) - (alpha_hat z + gamma_hat x)``; needs no target network. Samples take many steps."""

    sampler: ClassVar[str] = "euler"

    times: TimeSampler = field(default_factory=lambda: TimeSampler(interval="equal"))

    def residual(self, point: Point) -> Queries[Residual]:
        return Residual(PREDICTION - (yield from self.target(point)))
