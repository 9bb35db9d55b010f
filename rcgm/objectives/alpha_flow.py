"""alpha-Flow: from flow matching towards any ``r`` to MeanFlow (Zhang et al. 2025; math.md section 9)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from rcgm.engine.combination import term
from rcgm.engine.queries import STUDENT, Queries
from rcgm.objectives.gaps import Alpha, AlphaSchedule, alpha_at, check_alpha
from rcgm.objectives.point import Point
from rcgm.objectives.rcgm import RCGM
from rcgm.objectives.residual import RecursiveResidual, Residual
from rcgm.objectives.tim import transition_residual
from rcgm.objectives.times import TimeSampler
from rcgm_kernels import AdaptiveWeight


@dataclass(frozen=True, kw_only=True)
class AlphaFlow(RCGM):
    """``R = F(x_t, t, r) - alpha v - (1 - alpha) F-(x_s, s, r)``, ``s = t - alpha (t - r)``, ``x_s = x_t - (t - s) v``.

    The loss of a sample is ``|R|^2/alpha``. At ``alpha`` 1 it is flow matching towards any ``r``, at 1/2 Shortcut with
    the first half step along ``v``, and in the limit 0 MeanFlow. ``R/alpha`` is ``RCGM.residual`` at order 1 with the
    relative first gap ``alpha (t - r)``, so every order and every transport has one.

    Published settings are the defaults: ``alpha`` falls from 1 along a sigmoid and training ends with MeanFlow; the
    network without gradient is the student itself; ``r = t`` in half of the samples. With an adaptive weight the loss
    is ``alpha |R|^2/(|R|^2 + eps)``, as in the authors' program, whose norm is a mean over the D elements of a sample:
    ``reduce="sum"`` and D times its eps. Its clip of the regression target to [-4, 4] in the runs with guidance is not
    here; ``clip`` bounds ``R/alpha``. Its guidance is ``MixedTarget(scale=kappa, data=omega, network="student")``.

    Args:
        alpha: a number from above 0 to 1, or its schedule; ``end`` belongs to the length of the run.
        limit: at order 1, once the schedule has reached its floor, train the limit ``alpha = 0``, MeanFlow, whose
            derivative the estimator gives. Other orders stay at the floor.
        adaptive: by default ``1/(|R|^2 + 1e-3)``.

    Raises:
        TypeError, ValueError: for a value out of range.
    """

    times: TimeSampler = field(
        default_factory=lambda: TimeSampler("logit_normal", -0.4, 1.0, interval="sorted", equal=0.5)
    )
    order: int = 1
    alpha: Alpha = field(default_factory=AlphaSchedule)
    limit: bool = True
    network: str = STUDENT
    clip: float | None = None
    adaptive: AdaptiveWeight | None = field(default_factory=lambda: AdaptiveWeight(1.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_alpha(self.alpha)

    def residual(self, point: Point) -> Queries[Residual]:
        if self._at_the_limit(point.step):
            return (yield from self._mean_flow(point))
        recursive = yield from super().residual(point)
        value = recursive.combination() if isinstance(recursive, RecursiveResidual) else recursive.value
        times = self._knots(point)
        t, first, r = times[0], times[1], times[-1]
        share = torch.where(t > r, (t - first) / torch.where(t > r, t - r, 1), 1)  # alpha, to the rounding of the times
        return Residual(value, scale=share, weight=1 / share if self.adaptive is None else share)

    def _at_the_limit(self, step: int) -> bool:
        ends = self.limit and self.order == 1 and isinstance(self.alpha, AlphaSchedule)
        return ends and alpha_at(self.alpha, step) == self.alpha.floor

    def _mean_flow(self, point: Point) -> Queries[Residual]:
        point = yield from self.with_regression_target(point)
        dF_dt = yield from self.total_derivative(point, self.network)
        return transition_residual(self.transport, point, term(point.regression_target), dF_dt)
