"""DE-CM: dual-end consistency models, three regressions on chosen parts of the trajectory (math.md section 3).

The paper's time runs the other way: its ``t`` is ``1 - t`` here, its ``s = 1`` is ``r = 0``, its ``F`` is ``-F``. A
derivative in its time of its ``F`` is then the derivative in ours of ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from rcgm.checks import whole_number
from rcgm.engine.combination import PREDICTION, Combination, term
from rcgm.engine.queries import STUDENT, TARGET, Derivative, Queries, Query, Tangent, together
from rcgm.objectives.base import Objective, Part
from rcgm.objectives.flow_matching import FlowMatching
from rcgm.objectives.point import Point
from rcgm.objectives.residual import Residual
from rcgm.objectives.times import Times, TimeSampler
from rcgm.transports import Linear
from rcgm_kernels import AdaptiveWeight, Metric


@dataclass(frozen=True, kw_only=True)
class ConsistencyPart(Objective):
    """Equation 10: ``R = w (F - v + t dF/dt)`` at ``r = 0``, ``w = t/2`` (equation 7 with its usual ``w = 1/eps``)."""

    def residual(self, point: Point) -> Queries[Residual]:
        point = yield from self.with_regression_target(point)
        dF_dt = yield from self.total_derivative(point)
        F, v = PREDICTION, term(point.regression_target)
        return Residual(F - v + (point.t - point.r) * dF_dt, scale=point.t / 2)


@dataclass(frozen=True, kw_only=True)
class FlowPart(FlowMatching):
    """Equation 17: flow matching, times ``weight``."""

    weight: float = 1.0

    def residual(self, point: Point) -> Queries[Residual]:
        plain = yield from super().residual(point)
        return replace(plain, weight=torch.full_like(point.t, self.weight))


@dataclass(frozen=True, kw_only=True)
class NoiseToNoisyPart(Objective):
    """Equation 15: ``R = [(a + b) F - a v_t - b v_r + (t - r) D F] / (a + b)``, from near noise to any ``r``.

    ``v_t`` is the velocity at ``x_t``, and ``v_r`` the one at ``x_t - (t - r) F``, where the step lands. ``D`` is the
    derivative along ``(a v_t, a, -b)`` in ``(x, t, r)``. This is the sum of two exact statements. With weight ``a``:
    the landing point does not depend on where along the trajectory the step starts. With weight ``b``: the landing
    point moves with the flow as ``r`` moves.

    The paper contradicts itself here. Its tangent gives lambda (``a``) to the start and gamma (``b``) to the end, but
    equations 14 and 15 weight the velocities the other way round. Algorithm 1 weights them as here, but multiplies ``D
    F`` by lambda once more, takes ``F`` from the consistency part, and takes ``v_r`` on the straight line between data
    and noise instead of where the step lands (equation 13). The combination above is the only one that vanishes at the
    exact network. The paper does not give its weight ``w_2``; here ``F`` has the coefficient 1.

    With a teacher, both velocities are the teacher's, guided. From data, ``v_t`` is that of the pair, and ``v_r`` that
    of the target network, which learns the guided velocity in the flow-matching part.

    Args:
        start_weight: a, the lambda of the paper's tangent.
        end_weight: b, its gamma.
    """

    start_weight: float = 1.0
    end_weight: float = 1.0

    def residual(self, point: Point) -> Queries[Residual]:
        point = yield from self.with_regression_target(point)
        v_r, (DF,) = yield from together(self._velocity_at_the_end(point), self._derivative(point))
        F, v_t = PREDICTION, term(point.regression_target)
        a, b = self.start_weight, self.end_weight
        value = (a + b) * F - a * v_t - b * v_r + (point.t - point.r) * DF
        return Residual(value * (1 / (a + b)))

    def _velocity_at_the_end(self, point: Point) -> Queries[Combination]:
        (prediction,) = yield [Query(point.x_t, point.t, point.r, STUDENT)]
        landing = self.transport.move(point.x_t, prediction, point.t, point.r)
        if self.supervision == "teacher":
            return (yield from self.regression_target(replace(point, x_t=landing, t=point.r)))
        (end,) = yield [Query(landing, point.r, point.r, TARGET)]
        return term(end)

    def _derivative(self, point: Point) -> Queries[list[Combination]]:
        tangent = Tangent(self.start_weight * point.velocity, self.start_weight, -self.end_weight)
        return (yield [Derivative(point.x_t, point.t, point.r, tangent, at_prediction=True, share=point.share)])


@dataclass(frozen=True, kw_only=True)
class DECM(Objective):
    """Consistency to data (``r = 0``), flow matching (``r = t``), and now and then noise to noisy (from ``t`` near 1).

    Algorithm 1 of the paper. The loss of a step is the sum of the first two at the same ``x_t``. Every ``every``-th
    step adds the third, and counts flow matching twice, as its boundary. The paper makes two updates in such a step;
    here it is one. The method is published for distillation: ``supervision="teacher"``, a student that begins with the
    weights of the teacher, and guidance ``decm`` (``NormalizedTarget``) by the teacher. Linear transport only.

    Args:
        times: times of the first two parts; so are times given in a call. ``r`` is not used. The paper draws among the
            ends of N segments.
        near: times of the third part.
        every: the third part comes in every so many steps, at least 1; 3 in the paper.
        start_weight, end_weight: of the third part, ``>= 0`` and not both 0: lambda and gamma of the paper's tangent.
        metric: of the flow-matching part; the paper adds a cosine term.
        adaptive, normalize: of the first and third part; an adaptive power of 1/2 is the pseudo-Huber loss.

    Raises:
        TypeError: for a frequency that is not a whole number.
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
        whole_number("every", self.every)
        for name in ("start_weight", "end_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")
        if self.start_weight + self.end_weight == 0:
            raise ValueError("start_weight and end_weight must not both be 0, got 0 and 0: choose one above 0")

    def _check_normalize(self) -> None:
        """The metric belongs to one part and the normalisation to the others, so these check it when they are built."""
        self._consistency()

    def parts(self, times: Times, step: int, draw: Callable[[TimeSampler], Times]) -> Sequence[Part]:
        due, t = step % self.every == 0, times.t
        flow = FlowPart(metric=self.metric, weight=2.0 if due else 1.0, **self._shared())
        parts: list[Part] = [(self._consistency(), Times(t, torch.zeros_like(t))), (flow, times.without_intervals())]
        if due:
            weights = {"start_weight": self.start_weight, "end_weight": self.end_weight}
            third = NoiseToNoisyPart(**weights, **self._by_derivative())
            parts.append((third, draw(self.near)))
        return parts

    def residual(self, point: Point) -> Queries[Residual]:
        # a step evaluates the objectives of `parts`; this is none of them
        raise NotImplementedError("the residuals of decm are those of its parts")

    def _consistency(self) -> ConsistencyPart:
        return ConsistencyPart(**self._by_derivative())

    def _by_derivative(self) -> dict[str, Any]:
        """Settings of the parts that learn from a derivative."""
        own = {name: getattr(self, name) for name in ("adaptive", "normalize", "normalize_scale")}
        return {**own, **self._shared()}

    def _shared(self) -> dict[str, Any]:
        names = ("transport", "supervision", "guidance", "clip", "reduce", "sample_weight")
        return {name: getattr(self, name) for name in names}
