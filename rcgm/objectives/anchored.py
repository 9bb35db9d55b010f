"""Consistency training anchored by flow matching at the same points: what DE-CM and FACM have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from rcgm.engine.combination import PREDICTION, term
from rcgm.engine.queries import Queries
from rcgm.objectives.base import Objective, Part
from rcgm.objectives.flow_matching import FlowMatching
from rcgm.objectives.point import Point
from rcgm.objectives.residual import Residual
from rcgm.objectives.times import Times, TimeSampler
from rcgm.transports import Linear
from rcgm_kernels import AdaptiveWeight, Metric


@dataclass(frozen=True, kw_only=True)
class ConsistencyPart(Objective):
    """``R = scale(t) clamp(F - v + t dF/dt)`` at ``r = 0``, times ``weight(t)``.

    Args:
        scale, weight: functions of ``t`` ``[B]`` that give ``[B]``; None for 1.
    """

    scale: Callable[[Tensor], Tensor] | None = None
    weight: Callable[[Tensor], Tensor] | None = None

    def residual(self, point: Point) -> Queries[Residual]:
        point = yield from self.with_regression_target(point)
        dF_dt = yield from self.total_derivative(point)
        F, v = PREDICTION, term(point.regression_target)
        scale, weight = (None if function is None else function(point.t) for function in (self.scale, self.weight))
        return Residual(F - v + (point.t - point.r) * dF_dt, scale=scale, weight=weight)


@dataclass(frozen=True, kw_only=True)
class FlowPart(FlowMatching):
    """Flow matching, times ``weight``."""

    weight: float = 1.0

    def residual(self, point: Point) -> Queries[Residual]:
        plain = yield from super().residual(point)
        return replace(plain, weight=torch.full_like(point.t, self.weight))


@dataclass(frozen=True, kw_only=True)
class Anchored(Objective):
    """Base of objectives whose loss is that of a consistency part (``r = 0``) and of flow matching (``r = t``).

    Both are at the same ``x_t``, so that the teacher and guidance are asked once. Linear transport only.

    Args:
        times: of both parts; so are times given in a call. ``r`` is not used.
        metric: of the flow-matching part; the papers add a cosine term. The other part has L2.
        adaptive, normalize: of the parts that learn from a derivative; an adaptive power of 1/2 makes L2 the
            pseudo-Huber loss.

    Raises:
        ValueError: for a value out of range, or another transport.
    """

    sampler: ClassVar[str] = "consistency"

    times: TimeSampler = field(default_factory=lambda: TimeSampler(interval="zero"))
    metric: Metric = field(default_factory=lambda: Metric(cosine=1.0))
    adaptive: AdaptiveWeight | None = field(default_factory=lambda: AdaptiveWeight(0.5))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.transport, Linear):
            raise ValueError(f"transport must be linear for {type(self).__name__.lower()}, got {self.transport!r}")

    def _check_normalize(self) -> None:
        """The metric belongs to one part and the normalisation to the others, so these check it when they are built."""
        self.consistency()

    def parts(self, times: Times, step: int, draw: Callable[[TimeSampler], Times]) -> Sequence[Part]:
        return [
            (self.consistency(), Times(times.t, torch.zeros_like(times.t))),
            (self.flow(step), times.without_intervals()),
        ]

    def residual(self, point: Point) -> Queries[Residual]:
        # Every objective has one, but a step evaluates those of `parts`, and this objective is none of them.
        raise NotImplementedError("the residuals of this objective are those of its parts")

    @abstractmethod
    def consistency(self) -> ConsistencyPart:
        """The consistency part."""

    def flow(self, step: int) -> FlowPart:
        """The flow-matching part of training step number ``step``."""
        return FlowPart(metric=self.metric, **self.shared())

    def by_derivative(self) -> dict[str, Any]:
        """Settings of the parts that learn from a derivative."""
        names = ("clip", "adaptive", "normalize", "normalize_scale")
        return {**{name: getattr(self, name) for name in names}, **self.shared()}

    def shared(self) -> dict[str, Any]:
        """Settings of all parts."""
        names = ("transport", "supervision", "guidance", "reduce", "sample_weight")
        return {name: getattr(self, name) for name in names}
