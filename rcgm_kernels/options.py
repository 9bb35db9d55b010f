"""The options of the fused losses: metric and adaptive weight."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from rcgm_kernels import checks

METRICS = ("l2", "pseudo_huber", "barron", "barron_reweighting")
COSINE_DIMS = ("channels", "sample")
REDUCES = ("mean", "sum")
ADAPTIVE_OF = ("residual", "loss")
REDUCTIONS = ("mean", "sum", "none")


@dataclass(frozen=True)
class Metric:
    """How a residual becomes a loss: ``rho(m) + cosine * (1 - cos(pred, pred - R))``.

    ``m`` is the mean or the sum of ``R^2`` over the elements of a sample, as the loss's ``reduce`` says.

    Args:
        name: ``"l2"``: ``rho = m``. ``"pseudo_huber"``: ``rho = sqrt(m + c^2) - c`` (Song & Dhariwal 2023).
            ``"barron"``: the general robust loss of Barron 2019, equation 1, of shape ``alpha`` and width ``c``.
            ``"barron_reweighting"``: ``rho = w m / c`` where the weight ``w = (m / (c^2 + 1e-8) / |alpha - 2| +
            1)^((alpha - 2)/2)`` is held without gradient (TwinFlow's program). Its gradient, ``w / c`` for each unit of
            ``m``, is ``2 c`` times that of ``"barron"``, but for the 1e-8; its value is another, and falls for large
            ``m`` with ``alpha < 0``.
        c: width, ``>= 0`` for pseudo-Huber and ``> 0`` for the two of Barron; L2 ignores it.
        alpha: shape of Barron: 2 is L2 / (2 c^2), 1 is pseudo-Huber / c, 0 is Cauchy, -2 Geman-McClure, ``-inf``
            Welsch.
        cosine: weight of the cosine term, ``>= 0``; 0 leaves it out.
        cosine_dim: ``"channels"``: the cosine is over dimension 1 of ``[B, C, ...]`` at each position, ``1 - cos``
            averaged over the positions (UCGM's and TiM's programs). ``"sample"``: over all elements of a sample. For
            ``[B, C]`` both are the same. A vector of length 0 has no direction: its ``1 - cos`` is 1, without gradient.

    Raises:
        TypeError, ValueError: for an unknown name, or a value that is no number or out of range.
    """

    name: str = "l2"
    c: float = 1.0
    alpha: float = 1.0
    cosine: float = 0.0
    cosine_dim: str = "channels"

    def __post_init__(self) -> None:
        if self.name not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {self.name!r}")
        for name in ("c", "alpha", "cosine"):
            checks.number(f"metric {name}", getattr(self, name))
        positive = self.name.startswith("barron")
        if not (math.isfinite(self.c) and self.c >= 0) or (positive and self.c == 0):
            needed = "a finite number > 0" if positive else "a finite number >= 0"
            raise ValueError(f"metric c must be {needed} for {self.name}, got {self.c!r}")
        if math.isnan(self.alpha) or self.alpha == math.inf:
            raise ValueError(f"metric alpha must be a number or -inf, got {self.alpha!r}")
        if not (math.isfinite(self.cosine) and self.cosine >= 0):
            raise ValueError(f"metric cosine must be a finite number >= 0, got {self.cosine!r}")
        if self.cosine_dim not in COSINE_DIMS:
            raise ValueError(f"metric cosine_dim must be one of {', '.join(COSINE_DIMS)}, got {self.cosine_dim!r}")

    @staticmethod
    def from_value(value: Metric | str) -> Metric:
        """The metric that ``value`` names, with default parameters, or ``value`` itself."""
        if isinstance(value, Metric):
            return value
        if not isinstance(value, str):
            raise TypeError(f"metric must be a name ({', '.join(METRICS)}) or a Metric, got {type(value).__name__}")
        return _NAMED.get(value) or Metric(value)


_NAMED = {name: Metric(name) for name in METRICS}


@dataclass(frozen=True)
class AdaptiveWeight:
    """The weight of a sample by its own size, without gradient.

    ``of="residual"``: ``1 / (|R|^2 + eps)^power``, ``|R|^2`` being the sum over the sample's elements, whatever the
    loss reduces them by (MeanFlow). ``of="loss"``: ``1 / (loss + eps)^power``, of the sample's whole loss, with its
    cosine term, before any weight (TiM as trained: power 1, eps 1e-5).

    Raises:
        TypeError, ValueError: if ``power`` is not a finite number, ``eps`` is not a finite number ``> 0`` or ``of`` is
            neither of these.
    """

    power: float = 1.0
    eps: float = 1e-3
    of: str = "residual"

    def __post_init__(self) -> None:
        for name in ("power", "eps"):
            checks.number(f"adaptive {name}", getattr(self, name))
        if not math.isfinite(self.power):
            raise ValueError(f"adaptive power must be finite, got {self.power!r}")
        if not (math.isfinite(self.eps) and self.eps > 0):
            raise ValueError(f"adaptive eps must be a finite number > 0, got {self.eps!r}")
        if self.of not in ADAPTIVE_OF:
            raise ValueError(f"adaptive of must be one of {', '.join(ADAPTIVE_OF)}, got {self.of!r}")

    @staticmethod
    def from_value(value: AdaptiveWeight | float | None) -> AdaptiveWeight | None:
        """``value`` itself, or the weight of that power."""
        if value is None or isinstance(value, AdaptiveWeight):
            return value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"adaptive must be an AdaptiveWeight, a power or None, got {type(value).__name__}")
        return AdaptiveWeight(float(value))


NOT_ADAPTIVE = AdaptiveWeight(0.0)
"""A weight of 1: what stands for none in plain values."""


@dataclass(frozen=True)
class LossOptions:
    """Everything about a fused loss that is not a tensor; what a backend is given.

    Args:
        times: the per-sample scalars are knots ``[N+2, B]`` rather than coefficients ``[K, B]``.
        pred_in_residual: the prediction is the first tensor of the combination (else ``terms[0]`` is).
        clip: bound of the clamp, ``> 0``, ``inf`` for none.
        metric, adaptive: as the losses take them.
        normalize: constant of the tangent normalisation ``R / (|R| + constant)``, or None.
        reduce: over the elements of a sample, ``"mean"`` or ``"sum"``.
        reduction: over samples, ``"mean"``, ``"sum"`` or ``"none"``.
        with_gradient: whether the gradient is wanted.

    Raises:
        TypeError, ValueError: for values out of range, or that exclude each other.
    """

    times: bool
    pred_in_residual: bool
    clip: float
    metric: Metric
    normalize: float | None
    adaptive: AdaptiveWeight | None
    reduce: str
    reduction: str
    with_gradient: bool

    SCHEMA: ClassVar[str] = (
        "bool times, bool pred_in_residual, float clip, str metric, float metric_c, float metric_alpha, float cosine, "
        "str cosine_dim, float? normalize, float power, float eps, str adaptive_of, str reduce, str reduction, "
        "bool with_gradient"
    )
    """The arguments by which an operation of torch takes them, in the order of :meth:`flat`."""

    def __post_init__(self) -> None:
        for name, value in (("clip", self.clip), ("normalize", self.normalize)):
            if value is not None:
                checks.number(name, value)
        if not self.clip > 0:
            raise ValueError(f"clip must be > 0 or None, got {self.clip!r}")
        if self.normalize is not None and not (math.isfinite(self.normalize) and self.normalize >= 0):
            raise ValueError(f"normalize must be a finite number >= 0 or None, got {self.normalize!r}")
        if self.normalize is not None and self.metric.cosine:
            raise ValueError(
                f"normalize must be None with a cosine term, got {self.normalize!r}: a normalised tangent has no "
                "target to compare the prediction with. Set metric cosine to 0 or normalize to None"
            )
        if self.reduce not in REDUCES:
            raise ValueError(f"reduce must be one of {', '.join(REDUCES)}, got {self.reduce!r}")
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {self.reduction!r}")

    @staticmethod
    def from_arguments(
        times: bool,
        pred_in_residual: bool,
        clip: float | None,
        metric: Metric | str,
        normalize: float | None,
        adaptive: AdaptiveWeight | float | None,
        reduce: str,
        reduction: str,
        with_gradient: bool,
    ) -> LossOptions:
        """The options from what the losses take for them."""
        return LossOptions(
            times,
            pred_in_residual,
            math.inf if clip is None else clip,
            Metric.from_value(metric),
            normalize,
            AdaptiveWeight.from_value(adaptive),
            reduce,
            reduction,
            with_gradient,
        )

    def flat(self) -> tuple[bool | float | str | None, ...]:
        """The options as plain values."""
        metric, adaptive = self.metric, self.adaptive or NOT_ADAPTIVE
        return (
            self.times,
            self.pred_in_residual,
            float(self.clip),
            metric.name,
            float(metric.c),
            float(metric.alpha),
            float(metric.cosine),
            metric.cosine_dim,
            None if self.normalize is None else float(self.normalize),
            float(adaptive.power),
            float(adaptive.eps),
            adaptive.of,
            self.reduce,
            self.reduction,
            self.with_gradient,
        )

    @staticmethod
    @functools.lru_cache(maxsize=256)  # a training loop has few different ones
    def from_flat(
        times: bool,
        pred_in_residual: bool,
        clip: float,
        metric: str,
        metric_c: float,
        metric_alpha: float,
        cosine: float,
        cosine_dim: str,
        normalize: float | None,
        power: float,
        eps: float,
        adaptive_of: str,
        reduce: str,
        reduction: str,
        with_gradient: bool,
    ) -> LossOptions:
        """The options that :meth:`flat` made these plain values of."""
        return LossOptions(
            times=times,
            pred_in_residual=pred_in_residual,
            clip=clip,
            metric=Metric(metric, metric_c, metric_alpha, cosine, cosine_dim),
            normalize=normalize,
            adaptive=AdaptiveWeight(power, eps, adaptive_of) if power else None,
            reduce=reduce,
            reduction=reduction,
            with_gradient=with_gradient,
        )

    def share(self, batch: int) -> float:
        """The share of a sample's loss, and of its gradient, in the loss of the batch."""
        return 1 / batch if self.reduction == "mean" and batch else 1.0

    def positions(self, shape: Sequence[int]) -> int:
        """At how many positions of a sample of ``[B, C, ...]`` there is a cosine over channels; 0: over the sample."""
        if not self.metric.cosine or self.metric.cosine_dim == "sample":
            return 0
        count = math.prod(shape[2:])
        return count if count > 1 else 0

    def divisor(self, size: int) -> int:
        """What a sample's sum of squares is divided by."""
        return size if self.reduce == "mean" else 1

    def gradient_is_scaled(self, dtype: torch.dtype) -> bool:
        """True if the gradient is stored with a scale for each sample, so that it fits the range of ``dtype``.

        A gradient of size ``1 / (D B)`` would vanish in float16 before a gradient scaler's factor reaches it, and one
        that fits could overflow if it were stored without that factor. So each sample is multiplied by a power of two
        that brings the bound of its elements below 2^15; the backward pass, which has the upstream gradient, divides by
        it in float32. That does not round a second time.
        """
        return self.with_gradient and dtype == torch.float16
