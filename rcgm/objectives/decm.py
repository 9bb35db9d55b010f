"""DE-CM: dual-end consistency models, three regressions on chosen parts of the trajectory (math.md section 3).

The paper's time runs the other way: its ``t`` is ``1 - t`` here, its ``s = 1`` is ``r = 0``, its ``F`` is ``-F``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from rcgm.combination import PREDICTION, term
from rcgm.objectives.base import Objective, Part, Residual
from rcgm.objectives.flow_matching import FlowMatching
from rcgm.objectives.point import Point
from rcgm.queries import STUDENT, TARGET, TEACHER, Derivative, Queries, Query, Tangent, together
from rcgm.times import Times, TimeSampler
from rcgm.transports import Linear
from rcgm_kernels import AdaptiveWeight, Metric


@dataclass(frozen=True, kw_only=True)
class ConsistencyPart(Objective):
    """Equation 10: ``R = w (F - v + t dF/dt)`` at ``r = 0``, ``w = t/2`` (equation 7 with its usual ``w = 1/eps``)."""

    def residual(self, point: Point) -> Queries[Residual]:
        point = yield from self.supervised(point)
        slope = yield from self.slope(point)
        return Residual(PREDICTION - term(point.target) + (point.t - point.r) * slope, scale=point.t / 2)


@dataclass(frozen=True, kw_only=True)
class NoiseToNoisyPart(Objective):
    """Equation 15: ``R = [(a + b) F - a v_t - b v_r + (t - r) D F] / (a + b)``, from near noise to any ``r``.

    ``v_t`` is the velocity at ``x_t`` and ``v_r`` that at ``x_t - (t - r) F``, where the step lands; ``D`` is the
    derivative along ``(a v_t, a, -b)`` in ``(x, t, r)``. It is the sum of two exact statements: with weight ``a`` that
    the landing point does not depend on where along the trajectory the step starts, and with weight ``b`` that it moves
    with the flow as ``r`` moves. Equation 15 and Algorithm 1 exchange the two weights, and the algorithm multiplies ``D
    F`` by its weight twice; this is what vanishes at the exact network.
    """

    start_weight: float = 1.0
    end_weight: float = 1.0

    def residual(self, point: Point) -> Queries[Residual]:
        point = yield from self.supervised(point)
        end, (slope,) = yield from together(self._end(point), self._slope(point))
        a, b = self.start_weight, self.end_weight
        value = (a + b) * PREDICTION - a * term(point.target) - b * term(end) + (point.t - point.r) * slope
        return Residual(value * (1 / (a + b)))

    def _end(self, point: Point) -> Queries[torch.Tensor]:
        (prediction,) = yield [Query(point.x_t, point.t, point.r, STUDENT)]
        landing = self.transport.move(point.x_t, prediction, point.t, point.r)
        network = TEACHER if self.supervision == "teacher" else TARGET
        (end,) = yield [Query(landing, point.r, point.r, network)]
        return end

    def _slope(self, point: Point) -> Queries[list]:
        tangent = Tangent(self.start_weight * point.velocity, self.start_weight, -self.end_weight)
        return (yield [Derivative(point.x_t, point.t, point.r, tangent, at_prediction=True)])


@dataclass(frozen=True, kw_only=True)
class DECM(Objective):
    """Consistency to data (``r = 0``), flow matching (``r = t``), and now and then noise to noisy (from ``t`` near 1).

    Algorithm 1 of the paper. Each step's loss is the sum of the first two at the same ``x_t``; every ``every``-th step
    adds the third, with one more flow-matching term as its boundary. Published for distillation, with a teacher and
    ``NormalizedTarget`` guidance; from data the end velocity of the third part is the target network's own. Linear
    transport.

    Args:
        times: of the first two parts; ``r`` is not used. The paper draws among the ends of N segments.
        near: times of the third part.
        every: update frequency of the third part; 3 in the paper.
        start_weight, end_weight: of the third part.
        metric: of the flow-matching part; the paper adds a cosine term.
        adaptive: of the first and third part; power 1/2, which is the pseudo-Huber loss.

    Raises:
        ValueError: for a value out of range, or another transport.
    """

    sampler: ClassVar[str] = "mix"

    times: TimeSampler = field(default_factory=lambda: TimeSampler("segments", interval="zero"))
    near: TimeSampler = field(default_factory=lambda: TimeSampler(near=0.05))
    every: int = 3
    start_weight: float = 1.0
    end_weight: float = 1.0
    metric: Metric = field(default_factory=lambda: Metric(cosine=1.0))
    adaptive: AdaptiveWeight | None = field(default_factory=lambda: AdaptiveWeight(0.5))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.transport, Linear):
            raise ValueError(f"transport must be linear for decm, got {self.transport!r}")
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"every must be a whole number >= 1, got {self.every!r}")
        for name in ("start_weight", "end_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")
        if self.start_weight + self.end_weight == 0:
            raise ValueError("start_weight and end_weight must not both be 0")

    def parts(self, batch: int, step: int, generator: torch.Generator | None, device: torch.device) -> Sequence[Part]:
        shared = {"supervision": self.supervision, "guidance": self.guidance, "clip": self.clip}
        flow = FlowMatching(metric=self.metric, **shared)
        t = self.times.sample(batch, generator=generator, device=device).t
        consistency = ConsistencyPart(adaptive=self.adaptive, **shared)
        parts = [(consistency, Times(t, torch.zeros_like(t))), (flow, Times(t, t, batch))]
        if step % self.every == 0:
            third = NoiseToNoisyPart(
                adaptive=self.adaptive, start_weight=self.start_weight, end_weight=self.end_weight, **shared
            )
            parts.append((third, replace(self.near.sample(batch, generator=generator, device=device), equal=0)))
            parts.append((flow, Times(t, t, batch)))
        return parts

    def residual(self, point: Point) -> Queries[Residual]:
        """That of the consistency part, for a point of given times."""
        shared = {"supervision": self.supervision, "guidance": self.guidance}
        return (yield from ConsistencyPart(**shared).residual(point))
