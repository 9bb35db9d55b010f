"""DE-CM: dual-end consistency models, three regressions on chosen parts of the trajectory (math.md section 3).

The paper's time runs the other way: its ``t`` is ``1 - t`` here, its ``s = 1`` is ``r = 0``, its ``F`` is ``-F``. A
derivative in its time of its ``F`` is then the derivative in ours of ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor

from rcgm.checks import whole_number
from rcgm.engine.combination import PREDICTION, Combination, term
from rcgm.engine.queries import STUDENT, TARGET, Derivative, Queries, Query, Tangent, together
from rcgm.objectives.anchored import Anchored, ConsistencyPart, FlowPart
from rcgm.objectives.base import Objective, Part
from rcgm.objectives.point import Point
from rcgm.objectives.residual import Residual
from rcgm.objectives.times import Times, TimeSampler


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
class DECM(Anchored):
    """Consistency to data (``r = 0``), flow matching (``r = t``), and now and then noise to noisy (from ``t`` near 1).

    Algorithm 1 of the paper. The loss of a step is the sum of the first two at the same ``x_t``. The consistency part
    is equation 10, ``R = t/2 (F - v + t dF/dt)`` (equation 7 with its usual weight ``1/eps``), flow matching equation
    17. Every ``every``-th step adds the third, and counts flow matching twice, as its boundary. The paper makes two
    updates in such a step; here it is one. The method is published for distillation: ``supervision="teacher"``, a
    student that begins with the weights of the teacher, and guidance ``decm`` (``NormalizedTarget``) by the teacher.
    Linear transport only.

    Args:
        times: of the first two parts. The paper draws among the ends of N segments.
        near: times of the third part.
        every: the third part comes in every so many steps, at least 1; 3 in the paper.
        start_weight, end_weight: of the third part, ``>= 0`` and not both 0: lambda and gamma of the paper's tangent.
        clip: of all parts but flow matching.

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

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("every", self.every)
        for name in ("start_weight", "end_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")
        if self.start_weight + self.end_weight == 0:
            raise ValueError("start_weight and end_weight must not both be 0, got 0 and 0: choose one above 0")

    def parts(self, times: Times, step: int, draw: Callable[[TimeSampler], Times]) -> Sequence[Part]:
        first_two = super().parts(times, step, draw)
        if not self._due(step):
            return first_two
        weights = {"start_weight": self.start_weight, "end_weight": self.end_weight}
        return [*first_two, (NoiseToNoisyPart(**weights, **self.by_derivative()), draw(self.near))]

    def consistency(self) -> ConsistencyPart:
        return ConsistencyPart(scale=_half, **self.by_derivative())

    def flow(self, step: int) -> FlowPart:
        return replace(super().flow(step), weight=2.0 if self._due(step) else 1.0)

    def _due(self, step: int) -> bool:
        """Whether the third part comes in training step number ``step``."""
        return step % self.every == 0


def _half(t: Tensor) -> Tensor:
    return t / 2
