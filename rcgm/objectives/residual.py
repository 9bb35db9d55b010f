"""Residuals: what an objective's formulas return, and the fused loss that is made of them in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rcgm.engine.combination import PREDICTION, Combination, term
from rcgm_kernels import fused_loss, fused_residual_loss, recursive_coefficients


@dataclass(frozen=True)
class Residual:
    """``R = scale * clamp(value)``, with a weight for each sample; see ``fused_residual_loss``.

    Args:
        value: linear combination of the prediction and of tensors ``[B, ...]``.
        scale: ``[B]``; None for 1.
        weight: of each sample, ``[B]``; None for 1. A sample with weight 0 is left out, whatever it holds.
    """

    value: Combination
    scale: Tensor | None = None
    weight: Tensor | None = None

    def losses(self, prediction: Tensor, t: Tensor, weight: Tensor | None, **options: Any) -> Tensor:
        """The loss of each sample at the student's ``prediction``, times ``weight``: ``[B]`` with gradient.

        Args:
            prediction: ``[B, ...]``.
            t: times of the samples, ``[B]``; the coefficients take their dtype.
            weight: ``[B]``, or None for 1.
            options: clip, metric and others, as in ``fused_residual_loss``.
        """
        return fused_residual_loss(
            prediction,
            self.value.terms,
            self.value.stacked(t),
            pred_coeff=self.value.pred_coeff,
            scale=self.scale,
            weight=weight,
            reduction="none",
            **options,
        )


@dataclass(frozen=True)
class RecursiveResidual:
    """``R = clamp((1/dt) [(t - r) base - sum_i (t_i - t_{i+1}) segments[i]] - velocity)``; see ``fused_loss``.

    Args:
        times: the knots of the time grid, ``[N+2, B]``, from ``t`` down to ``r``.
        segments: N predictions, ``[B, ...]`` each.
        velocity: ``[B, ...]``.
        base: ``[B, ...]``; None for the student's own prediction.
        weight: of each sample, ``[B]``.
    """

    times: Tensor
    segments: Sequence[Tensor]
    velocity: Tensor
    base: Tensor | None = None
    weight: Tensor | None = None

    def combination(self) -> Combination:
        """What is clamped, as a linear combination."""
        own, behind = recursive_coefficients(self.times)
        value = own * (PREDICTION if self.base is None else term(self.base)) - term(self.velocity)
        for coeff, segment in zip(behind.unbind(0), self.segments, strict=True):
            value += coeff * term(segment)
        return value

    def losses(self, prediction: Tensor, t: Tensor, weight: Tensor | None, **options: Any) -> Tensor:
        """As :meth:`Residual.losses`."""
        return fused_loss(
            prediction,
            self.segments,
            self.velocity,
            self.times,
            base=self.base,
            weight=weight,
            reduction="none",
            **options,
        )


@dataclass(frozen=True)
class Twofold:
    """An objective's ``own`` residual and a ``further`` one of the same prediction, whose losses are added."""

    own: Residual | RecursiveResidual
    further: Residual


AnyResidual = Residual | RecursiveResidual | Twofold
