"""UCGM: one objective from multi-step to few-step models, by its consistency ratio (math.md section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rcgm.engine.combination import PREDICTION, Combination, term
from rcgm.engine.queries import Derivative, Queries, Query, Tangent, together
from rcgm.objectives.along_path import AlongPath
from rcgm.objectives.base import Objective, Part
from rcgm.objectives.guidance import SelfEnhancedTarget
from rcgm.objectives.pair import of_pair, target_derivative
from rcgm.objectives.point import Point
from rcgm.objectives.residual import Residual
from rcgm.objectives.times import Times, TimeSampler
from rcgm.objectives.weights import CosineWeight, Weighting
from rcgm_kernels import Metric

SHORT = 1e-6
"""Below this length an interval takes the limit at ``t = r``, which is exact to as much."""

Change = Callable[[list[Tensor], Combination], Combination]
"""Makes ``df`` from the answers to queries and the regression target."""


@dataclass(frozen=True, kw_only=True)
class UCGM(AlongPath):
    """``R = B(t, r) 4/sin(pi (t - r)/2) clamp(df)``, the change ``df`` of the step ``f = A x_t + B F`` along the path.

    ::

        ratio 0:      R  = F - (alpha_hat z + gamma_hat x)
        0 < ratio < 1: df = (f(x_t, t) - f(x_s, s)) / (t - s),   s = r + ratio (t - r)
        ratio 1:      df = df/dt, by the estimator of derivatives

    At ``r = 0``, as in the paper and the default times, ``s = ratio t``, ``f`` is the paper's ``f_x`` and ``B`` its
    ``alpha / (alpha gamma_hat - alpha_hat gamma)`` (equations 4 to 6; section 3.1). For any other ``r`` the same holds
    of the step to ``r``. At ``t = r`` the change ``df`` is its limit, ``dB/dt`` times the residual of ratio 0. Both
    ``f`` and ``B`` are in units of the state at ``r``, ``sqrt(alpha(r)^2 + gamma(r)^2)``, which is 1 at ``r = 0``
    except for transports that do not start with ``gamma = 1`` (EDM). Where ``alpha(0)`` is not 0 (0.2% in EDM, 2% in
    VE), the step to 0 differs from ``f_x`` by that much noise; the step is what is made constant.

    The estimator of derivatives chooses where to evaluate. The difference is taken of ``f``, not of ``F``: with
    ``central`` it is the paper's ``[f(t + e) - f(t - e)]/(2e)``, to rounding. Along the path the pair has one state at
    ``r``, so each ``f`` is that constant plus ``B(t_k, r) (F_k - T(t_k))``, and only the second part is formed. Some
    estimators do not answer with a combination of evaluations (forward-mode AD, the first call of ``auto``): they give
    ``dF/dt`` itself, and ``df`` follows by the product rule. Within ``e`` of an end of ``[r, 1]`` the nodes of the
    estimator are cut, where the paper would evaluate outside the range of times.

    The published settings for few steps, from a trained multi-step model, are the defaults together with
    ``guidance=TeacherEnhancedTarget(2.0)``, RAdam at 1e-4 and gradients clipped to norm 0.1; for many steps
    ``consistency_ratio=0``, ``TimeSampler("beta", 1, 1)`` (2.4, 2.4 for SD-VAE latents), ``Metric("pseudo_huber", c=0,
    cosine=1)`` and ``guidance=SelfEnhancedTarget(0.44 to 0.67)``.

    Args:
        consistency_ratio: lambda, from 0 (multi-step: flow matching or diffusion) to 1 (consistency). At 0 ``r`` is
            ``t``, whatever is drawn or given for it, and nothing is clamped.
        network: whose change, ``"student"`` as in the paper, or ``"target"`` (see ``AlongPath``). The prediction of the
            step itself is always the student's.
        inputs: ``"guided"``, as in the authors' program, or ``"data"`` (see ``AlongPath``). The state inside ``f`` is
        that of the changed
            pair either way. The text of the paper changes the regression target alone. The program enhances the data
            and the noise in place, so that the points built of them afterwards are those of the enhanced pair.
        sample_weight: by default ``cos(pi t/2)``.
        clip: bound of ``df``.
        metric: pseudo-Huber with c = 5 for few steps; a cosine term can be added.

    Raises:
        ValueError: for a value out of range.
    """

    times: TimeSampler = field(default_factory=lambda: TimeSampler("beta", 0.8, 1.0, interval="zero"))
    consistency_ratio: float = 1.0
    inputs: str = "guided"
    sample_weight: Weighting | None = field(default_factory=CosineWeight)
    clip: float | None = 1.0
    metric: Metric = field(default_factory=lambda: Metric("pseudo_huber", c=5.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.consistency_ratio <= 1:
            raise ValueError(f"consistency_ratio must be from 0 to 1, got {self.consistency_ratio!r}")

    @property
    def sampler(self) -> str:
        """Ratio 0 trains ``r = t`` only, so sampling takes many steps."""
        return "ucgm_multi" if self.consistency_ratio == 0 else "ucgm"

    def subtracted(self) -> set[str]:
        return {self.network} if 0 < self.consistency_ratio < 1 else set()

    def parts(self, times: Times, step: int, draw: Callable[[TimeSampler], Times]) -> Sequence[Part]:
        return [(self, times.without_intervals() if self.consistency_ratio == 0 else times)]

    def residual(self, point: Point) -> Queries[Residual]:
        F = PREDICTION
        if self.consistency_ratio == 0:
            return Residual(F - (yield from self._instantaneous(point)))
        T, df = yield from self._target_and_change(point)
        # float64: these are a few numbers a sample, and their differences are divided by the step
        t, r = point.t.double(), point.r.double()
        unit = 1 / torch.hypot(self.transport.alpha(r), self.transport.gamma(r))
        (_, B), B_prime = self.transport.step(t, r), self.transport.step_derivative(t, r)
        # VP's noise starts with an infinite derivative: a sample at t = 0 has nothing to learn
        B_prime = torch.where(B_prime.isfinite(), B_prime, 0)
        # R = B 4/sin(pi (t - r)/2) clamp(df); at t = r the limits of its two factors are 8/pi B' and B' (F - T)
        short = t - r < SHORT
        sine = torch.sin(math.pi / 2 * torch.where(short, 1, t - r))
        scale = unit * torch.where(short, 8 / math.pi * B_prime, 4 * B / sine)
        return Residual(unit * (~short * df + (short * B_prime) * (F - T)), scale=scale.to(point.t.dtype))

    def losses(self, prediction: Tensor, residual: Residual, point: Point) -> Tensor:
        unclamped = self.consistency_ratio == 0 and self.clip is not None
        return Objective.losses(replace(self, clip=None) if unclamped else self, prediction, residual, point)

    def _instantaneous(self, point: Point) -> Queries[Combination]:
        """The regression target of ratio 0. The student's estimate in it is its prediction in this step."""
        guidance = self.guidance
        if not isinstance(guidance, SelfEnhancedTarget):
            return (yield from self.regression_target(point))
        _, without = guidance.queries(point)
        plain, (null,) = yield from together(replace(self, guidance=None).regression_target(point), _ask([without]))
        return guidance.enhanced(point, plain, PREDICTION, term(null))

    def _target_and_change(self, point: Point) -> Queries[tuple[Combination, Combination]]:
        """The regression target, and the change ``df`` of ``f`` along the path."""
        if self.inputs == "guided":
            point = yield from self.with_regression_target(point)
            queries, change = self._plan(point)
            target = term(point.regression_target)
            return target, change((yield queries), target)
        queries, change = self._plan(point)
        target, answers = yield from together(self.regression_target(point), _ask(queries))
        return target, change(answers, target)

    def _plan(self, point: Point) -> tuple[list[Query], Change]:
        """The evaluations that ``df`` is made of, and how."""

        def states(times: Tensor) -> Tensor:
            if point.on_path:
                return self.transport.points(point.x, point.z, times[None])[0]
            return self.transport.move(point.x_t, point.regression_target, point.t, times)

        return self._derivative(point, states) if self.consistency_ratio == 1 else self._difference(point, states)

    def _difference(self, point: Point, states: Callable[[Tensor], Tensor]) -> tuple[list[Query], Change]:
        """``df = (f(x_t, t) - f(x_s, s)) / (t - s)``, with the prediction of the step in the first."""
        t, r = point.t, point.r
        s = r + self.consistency_ratio * (t - r)

        def change(answers: list[Tensor], target: Combination) -> Combination:
            gap = t.double() - s.double()
            inverse = torch.where(gap > 0, 1 / torch.where(gap > 0, gap, 1), 0)
            f_t, f_s = self._f(point, t, PREDICTION, target), self._f(point, s, term(answers[0]), target)
            return inverse * (f_t - f_s)

        return [Query(states(s), s, r, self.network, start=point.equal)], change

    def _derivative(self, point: Point, states: Callable[[Tensor], Tensor]) -> tuple[list[Query], Change]:
        """``df = df/dt``: the estimator's sum of evaluations ``F_k``, taken of the ``f`` that belong to them."""
        t = point.t
        queries, combine = self.derivative.plan(
            Derivative(
                point.x_t, t, point.r, Tangent(point.velocity), self.network, start=point.equal, at_prediction=True,
                curve=lambda offset: states(t + offset), share=point.share,
            )
        )  # fmt: skip

        def change(answers: list[Tensor], target: Combination) -> Combination:
            dF_dt = combine(answers)
            nodes = {id(answer): query for query, answer in zip(queries, answers, strict=True) if query.tangent is None}
            if any(id(answer) not in nodes for answer in dF_dt.terms):
                return self._product_rule(point, dF_dt, target)
            df_dt = dF_dt.pred_coeff * self._f(point, t, PREDICTION, target)
            for answer, coeff in zip(dF_dt.terms, dF_dt.coeffs, strict=True):
                df_dt += coeff * self._f(point, nodes[id(answer)].t, term(answer), target)
            return df_dt

        return queries, change

    def _f(self, point: Point, time: Tensor, prediction: Combination, target: Combination) -> Combination:
        """``f`` at ``time``, less the state at ``r`` of the pair that ``x_t`` and ``target`` stand for."""
        transport, s = self.transport, time.double()
        regressed = of_pair(transport, point, target, transport.alpha_hat(s), transport.gamma_hat(s))
        return transport.step(s, point.r.double())[1] * (prediction - regressed)

    def _product_rule(self, point: Point, dF_dt: Combination, target: Combination) -> Combination:
        """``df/dt = B (dF/dt - T') + B' (F - T)``."""
        transport, t, r = self.transport, point.t.double(), point.r.double()
        B_prime = torch.where(t - r < SHORT, 0, transport.step_derivative(t, r))
        change = dF_dt - target_derivative(transport, point, target)
        return transport.step(t, r)[1] * change + B_prime * (PREDICTION - target)


def _ask(queries: list[Query]) -> Queries[list[Tensor]]:
    return (yield queries)
