"""TiM: transition models, the state transition identity under any transport (Transition Models, section 3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from rcgm.engine.combination import PREDICTION, Combination, term
from rcgm.engine.queries import STUDENT, TARGET, Queries, together
from rcgm.objectives.base import Objective, Weighting
from rcgm.objectives.pair import of_pair
from rcgm.objectives.point import Point
from rcgm.objectives.residual import Residual
from rcgm.objectives.times import TimeSampler
from rcgm.objectives.weights import IntervalWeight
from rcgm.transports import Transport, TrigLinear
from rcgm_kernels import AdaptiveWeight

SOURCES = (STUDENT, TARGET)
INPUTS = ("data", "guided")
LARGEST_RATIO = 1e3


@dataclass(frozen=True, kw_only=True)
class TiM(Objective):
    """``R = F - T - (B/B') (T' - dF/dt)``, ``T = alpha_hat z + gamma_hat x``, ``B`` of the step from ``t`` to ``r``.

    Equations 8, 9 and 13: the product ``B (T - F)`` does not change along the path. ``B' = dB/dt`` and ``T'`` (of the
    same data and noise) are the transport's, so that the objective is the same under all of table 1; linear gives
    MeanFlow's residual. At ``t = r`` it is flow matching: those samples are not evaluated without gradient.

    Equation 9 divides by ``B'``, which the paper assumes is not 0 inside (0, T). TrigFlow's is at ``t = 1, r = 0``.
    Where ``B/B'`` would exceed 1000 the whole residual is scaled down to that, which keeps where it vanishes; without a
    clip losses near there may still be of the order of 1e6.

    The derivative along the path is the estimator's; ``central`` is the paper's DDE (equation 10, e = 0.005), its nodes
    cut where ``[t - e, t + e]`` leaves ``[r, 1]``, which the paper does not treat. Its text does not say how times are
    drawn; the defaults are the authors' class-conditional settings: two logit-normal draws, ``r = t`` in half of the
    samples (the diffusion ratio) and ``r = 0`` in a tenth (the consistency ratio). Their loss has a direction term
    and is weighted by its own size, ``Metric(cosine=1)`` and ``AdaptiveWeight(1, 1e-5, of="loss")``; their guidance is
    ``MixedTarget(0.75, 0.3, 0.8, guide_dropped=True)``.

    Args:
        network: whose derivative, ``"student"`` (without gradient: the paper's theta minus) or ``"target"``.
        inputs: where guidance or a teacher changes the target, whether the derivative is taken on the path of the
            data, as in the authors' implementation (``"data"``: its evaluations and those of guidance are one
            wave), or along the changed velocity (``"guided"``, as MeanFlow does; one more wave).
        sample_weight: by default equation 12.
        adaptive: by default ``1/(|R|^2 + 1e-3)``.

    Raises:
        ValueError: for a value out of range.
    """

    sampler: ClassVar[str] = "any_step"

    times: TimeSampler = field(
        default_factory=lambda: TimeSampler("logit_normal", -0.4, 1.0, interval="sorted", equal=0.5, zero=0.1)
    )
    transport: Transport = field(default_factory=TrigLinear)
    network: str = STUDENT
    inputs: str = "data"
    sample_weight: Weighting | None = field(default_factory=IntervalWeight)
    adaptive: AdaptiveWeight | None = field(default_factory=lambda: AdaptiveWeight(1.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network not in SOURCES:
            raise ValueError(f"network must be one of {', '.join(SOURCES)}, got {self.network!r}")
        if self.inputs not in INPUTS:
            raise ValueError(f"inputs must be one of {', '.join(INPUTS)}, got {self.inputs!r}")

    def residual(self, point: Point) -> Queries[Residual]:
        if self.inputs == "guided":
            point = yield from self.supervised(point)
            target, slope = term(point.target), (yield from self.slope(point, self.network))
        else:
            target, slope = yield from together(self.target(point), self.slope(point, self.network))
        kept, ratio = self._ratio(point)
        value = kept * (PREDICTION - target) + ratio * (slope - self._target_slope(point, target))
        return Residual(value)

    def _ratio(self, point: Point) -> tuple[Tensor, Tensor]:
        """The share of the residual that is kept, 1 save where ``B/B'`` is too large, and that share of ``B/B'``."""
        # float64: B is a difference, and 0/0 at t = r and for VP at t = 0, where B' is infinite
        t, r = point.t.double(), point.r.double()
        _, moved = self.transport.step(t, r)
        steepness = torch.where(moved != 0, self.transport.step_slope(t, r), 1)
        kept = torch.where(moved != 0, (LARGEST_RATIO * steepness / moved).abs().clamp(max=1), 1)
        bounded = torch.maximum(steepness.abs(), moved.abs() / LARGEST_RATIO)
        return kept, moved * steepness.sign() / bounded

    def _target_slope(self, point: Point, target: Combination) -> Combination:
        """``T'`` of the data and noise that ``x_t`` and ``target`` stand for."""
        transport, t = self.transport, point.t.double()
        return of_pair(transport, point, target, transport.alpha_hat_slope(t), transport.gamma_hat_slope(t))
