"""TiM: transition models, the state transition identity under any transport (Transition Models, section 3)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rcgm.engine.combination import PREDICTION, Combination
from rcgm.engine.queries import Queries
from rcgm.objectives.along_path import AlongPath
from rcgm.objectives.pair import target_derivative
from rcgm.objectives.point import Point
from rcgm.objectives.residual import Residual
from rcgm.objectives.self_adversarial import Adversarial
from rcgm.objectives.times import TimeSampler
from rcgm.objectives.weights import IntervalWeight, Weighting
from rcgm.transports import Transport, TrigLinear
from rcgm_kernels import AdaptiveWeight

LARGEST_RATIO = 1e3


@dataclass(frozen=True, kw_only=True)
class TiM(Adversarial, AlongPath):
    """``R = F - T - (B/B') (T' - dF/dt)``, ``T = alpha_hat z + gamma_hat x``, ``B`` of the step from ``t`` to ``r``.

    Equations 8, 9 and 13: the product ``B (T - F)`` does not change along the path. ``B' = dB/dt`` and ``T'`` (of the
    same data and noise) belong to the transport, so one formula serves all rows of table 1. Under the linear transport
    it is MeanFlow's. At ``t = r`` it is flow matching: those samples are not evaluated without gradient.

    Equation 9 divides by ``B'``, which the paper assumes is not 0 inside (0, T). Under TrigFlow it is 0 at ``t = 1, r =
    0``. Where ``B/B'`` would exceed 1000, the whole residual is scaled down so that it does not: it vanishes where it
    did. Its loss is scaled by the same factor: where ``B'`` is 0 the prediction has no part in the residual, and the
    sample is left out. Without a clip, losses near there may still be as large as 1e6.

    The total derivative comes from the estimator. ``central`` is the paper's DDE (equation 10, e = 0.005). Its nodes
    are cut where ``[t - e, t + e]`` leaves ``[r, 1]``, a case that the paper does not treat. The text does not say how
    times are drawn. The defaults are the class-conditional settings of the authors: two logit-normal draws, ``r = t``
    in half of the samples (the diffusion ratio) and ``r = 0`` in a tenth (the consistency ratio). Their loss has a
    direction term and is weighted by its own size, ``Metric(cosine=1)`` and ``AdaptiveWeight(1, 1e-5, of="loss")``;
    their guidance is ``MixedTarget(0.75, 0.3, 0.8, guide_dropped=True)``.

    Args:
        network: whose derivative, ``"student"`` as in the paper, or ``"target"`` (see ``AlongPath``).
        inputs: ``"data"``, as in the authors' program, or ``"guided"`` (see ``AlongPath``).
        sample_weight: by default equation 12.
        adaptive: by default ``1/(|R|^2 + 1e-3)``.

    Raises:
        ValueError: for a value out of range.
    """

    times: TimeSampler = field(
        default_factory=lambda: TimeSampler("logit_normal", -0.4, 1.0, interval="sorted", equal=0.5, zero=0.1)
    )
    transport: Transport = field(default_factory=TrigLinear)
    sample_weight: Weighting | None = field(default_factory=IntervalWeight)
    adaptive: AdaptiveWeight | None = field(default_factory=lambda: AdaptiveWeight(1.0))

    def residual(self, point: Point) -> Queries[Residual]:
        T, dF_dt = yield from self.target_and_derivative(point)
        return transition_residual(self.transport, point, T, dF_dt)


def transition_residual(transport: Transport, point: Point, T: Combination, dF_dt: Combination) -> Residual:
    """``F - T - (B/B') (T' - dF/dt)``, scaled down where ``B/B'`` is too large, and its loss with it."""
    T_prime = target_derivative(transport, point, T)
    kept, ratio = _bounded_ratio(transport, point)
    return Residual(kept * (PREDICTION - T) - ratio * (T_prime - dF_dt), weight=kept.to(point.t.dtype))


def _bounded_ratio(transport: Transport, point: Point) -> tuple[Tensor, Tensor]:
    """The factor of the residual, 1 except where ``B/B'`` exceeds 1000, and that factor times ``B/B'``; ``[B]``."""
    # float64: B is a difference, and 0/0 at t = r and for VP at t = 0, where B' is infinite
    t, r = point.t.double(), point.r.double()
    _, B = transport.step(t, r)
    B_prime = torch.where(B != 0, transport.step_derivative(t, r), 1)
    kept = torch.where(B != 0, (LARGEST_RATIO * B_prime / B).abs().clamp(max=1), 1)
    return kept, B * B_prime.sign() / torch.maximum(B_prime.abs(), B.abs() / LARGEST_RATIO)
