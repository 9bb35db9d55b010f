"""RCGM: the N-th order recursive consistent velocity field (math.md section 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rcgm.checks import one_of, whole_number
from rcgm.engine.combination import PREDICTION, Combination, term
from rcgm.engine.queries import SOURCES, STUDENT, TARGET, Queries, Query
from rcgm.objectives.gaps import SMALLEST_GAP, Alpha, alpha_at, check_alpha, relative_gap
from rcgm.objectives.point import Point
from rcgm.objectives.residual import AnyResidual, RecursiveResidual, Residual
from rcgm.objectives.self_adversarial import Adversarial
from rcgm.objectives.times import knots
from rcgm.transports import Linear

POINTS = ("rollout", "jump", "interpolant")
AGAIN = "again"
BASES = (STUDENT, TARGET, AGAIN)
LARGEST_ORDER = 30


@dataclass(frozen=True, kw_only=True)
class RCGM(Adversarial):
    """``R = clamp((1/dt) [(t - r) F(x_t, t, r) - sum_i (t_i - t_{i+1}) F-(x_{t_i}, t_i, t_{i+1})] - v)``.

    These are equations 7 to 9 of the paper. The times ``t = t_0 > t_1 >= ... >= t_{N+1} = r`` are the knots of the time
    grid, and two neighbouring knots bound a segment. The sign of ``zeta`` follows the gradient of equation 8; equation
    9 prints the other one (math.md section 2). Under other transports the same holds for their steps: the first step,
    to ``t_1`` along the regression target, and the N segments after it lead to the state that one step by ``F(x_t, t,
    r)`` leads to. The residual is their difference in units of the prediction.

    Args:
        order: N, the number of segments, from 0 to 30. 0 is flow matching on the drawn intervals; 2 is the default of
            the paper.
        dt: the first gap, from 1e-6 (float32 times resolve 6e-8) to 1; near ``r`` it is cut at ``t - r``.
        alpha: a relative first gap instead: ``dt = alpha (t - r)``, with a number from above 0 to 1 or an
            ``AlphaSchedule`` over training. At 1 the residual is that of order 0. Order 1 is the method of alpha-Flow,
            see ``AlphaFlow``; other orders are new. None for ``dt``.
        points: where the later knots lie. ``"rollout"``: each is one step of the target network further; N waves.
            ``"jump"``: each is one jump from the first knot; 2 waves at any order above 1. ``"interpolant"``: on the
            straight line between data and noise; 1 wave, biased at orders above 1 (math.md section 5).
        network: whose segments, ``"target"`` or ``"student"`` (without gradient).
        base: whose prediction at ``(x_t, t, r)`` is in the estimate. ``"student"``: that of the step, at no cost.
            ``"target"``: as in the paper, one more query in the first wave. ``"again"``: the student's, evaluated once
            more in ``target_dtype`` (math.md section 6: its rounding is amplified as much as that of the segments).

    Raises:
        TypeError: for an order that is not a whole number.
        ValueError: for a value out of range.
    """

    order: int = 2
    dt: float = 0.01
    alpha: Alpha | None = None
    clip: float | None = 1.0
    points: str = "rollout"
    network: str = TARGET
    base: str = STUDENT

    def __post_init__(self) -> None:
        super().__post_init__()
        if whole_number("order", self.order, 0) > LARGEST_ORDER:
            raise ValueError(f"order must be at most {LARGEST_ORDER}, got {self.order!r}")
        if not SMALLEST_GAP <= self.dt <= 1:
            raise ValueError(f"dt must be from {SMALLEST_GAP} to 1, got {self.dt!r}")
        if self.alpha is not None:
            check_alpha(self.alpha)
        one_of("points", self.points, POINTS)
        one_of("network", self.network, SOURCES)
        one_of("base", self.base, BASES)

    def gap(self, step: int) -> float:
        """The first gap, ``dt``, at training step number ``step``; without meaning where ``alpha`` is given."""
        return self.dt

    def residual(self, point: Point) -> Queries[AnyResidual]:
        point = yield from self.with_regression_target(point)
        times = self._knots(point)
        asked = [] if self.base == STUDENT else [Query(point.x_t, point.t, point.r, self._base_network)]
        answers, states = yield from self._segments(point, times, asked)
        base, segments = (answers[0] if asked else None), answers[len(asked) :]
        # R = (1/dt) [(t - r) base - sum_i (t_i - t_{i+1}) segments[i]] - v, which the fused loss evaluates
        if isinstance(self.transport, Linear):
            return RecursiveResidual(times, segments, point.regression_target, base)
        estimate = self._estimate(point, times, PREDICTION if base is None else term(base), segments, states)
        return Residual(estimate - term(point.regression_target))

    def _knots(self, point: Point) -> Tensor:
        if self.alpha is None:
            return knots(point.t, point.r, self.gap(point.step), self.order)
        alpha = alpha_at(self.alpha, point.step)
        if alpha == 1:  # no segment would have a length
            return knots(point.t, point.r, 1.0, 0)
        return knots(point.t, point.r, relative_gap(alpha, point.t, point.r), self.order)

    def subtracted(self) -> set[str]:
        networks = {self._base_network, self.network}
        return networks if self.order and len(networks) > 1 else set()

    @property
    def _base_network(self) -> str:
        return STUDENT if self.base == AGAIN else self.base

    def _estimate(
        self, point: Point, times: Tensor, base: Combination, segments: list[Tensor], states: list[Tensor]
    ) -> Combination:
        """The prediction at ``(x_t, t, t)`` that follows from the base and the segments, under any transport."""
        first_carried, first_moved = self.transport.step(times[0], times[1])
        carried, moved = self.transport.step(times[0], times[-1])
        whole = times[1] == times[-1]  # one gap, of any length: the estimate is the base
        inverse = torch.where(whole, 0, 1 / torch.where(whole, 1, first_moved))
        estimate = torch.where(whole, 1, moved * inverse) * base + (carried - first_carried) * inverse * term(point.x_t)
        for i, (segment, state) in enumerate(zip(segments, states, strict=True), 1):
            carried, moved = self.transport.step(times[i], times[i + 1])
            estimate -= (carried - 1) * inverse * term(state) + moved * inverse * term(segment)
        return estimate

    def _segments(self, point: Point, times: Tensor, base: list[Query]) -> Queries[tuple[list[Tensor], list[Tensor]]]:
        """Answers to ``base`` (part of the first wave) and to the N segments, and the states where these begin."""
        order = len(times) - 2
        if order == 0:
            return ((yield base) if base else []), []
        start, move = point.equal, self.transport.move
        first = move(point.x_t, point.regression_target, times[0], times[1])
        if self.points == "interpolant":
            later = self.transport.points(point.x, point.z, times[2:-1]).unbind(0) if order > 1 else ()
            states = [first, *later]
            return (yield base + self._queries(states, times, 1, start)), states
        if self.points == "jump":
            ends = times[2 : max(order, 2) + 1]
            jumps = [Query(first, times[1], end, self.network, start=start) for end in ends]
            answers = yield base + jumps
            landed = [move(first, jump, times[1], times[2 + i]) for i, jump in enumerate(answers[len(base) :])]
            landed = landed[: order - 1]
            rest = (yield self._queries(landed, times, 2, start)) if landed else []
            return answers[: len(base) + 1] + rest, [first, *landed]
        answers, states = [], [first]
        for i in range(1, order + 1):
            answers += yield (base if i == 1 else []) + self._queries(states[-1:], times, i, start)
            if i < order:
                states.append(move(states[-1], answers[-1], times[i], times[i + 1]))
        return answers, states

    def _queries(self, states: list[Tensor], times: Tensor, first: int, start: int) -> list[Query]:
        """Queries for the segments ``[t_{i+1}, t_i]`` that begin at ``states``, ``i`` counted from ``first``."""
        return [Query(x, times[i], times[i + 1], self.network, start=start) for i, x in enumerate(states, first)]
