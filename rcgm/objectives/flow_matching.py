"""Flow matching (Lipman et al. 2022; SiT): the instantaneous prediction, order 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from rcgm.engine.combination import PREDICTION
from rcgm.engine.queries import Queries
from rcgm.objectives.base import Objective, Part
from rcgm.objectives.point import Point
from rcgm.objectives.residual import Residual
from rcgm.objectives.times import Times, TimeSampler


@dataclass(frozen=True, kw_only=True)
class FlowMatching(Objective):
    """``R = F(x_t, t, t) - (alpha_hat z + gamma_hat x)``; needs no target network. Sampling takes many steps.

    ``r`` is ``t``, whatever is drawn or given for it.
    """

    sampler: ClassVar[str] = "euler"

    times: TimeSampler = field(default_factory=lambda: TimeSampler(interval="equal"))

    def parts(self, times: Times, step: int, draw: Callable[[TimeSampler], Times]) -> Sequence[Part]:
        return [(self, times.without_intervals())]

    def residual(self, point: Point) -> Queries[Residual]:
        return Residual(PREDICTION - (yield from self.regression_target(point)))
