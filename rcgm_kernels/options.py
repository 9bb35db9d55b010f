"""The options of the fused losses: metric and adaptive weight."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

from rcgm_kernels import checks

METRICS = ("l2", "pseudo_huber", "barron")
REDUCTIONS = ("mean", "sum", "none")


@dataclass(frozen=True)
class Metric:
    """How a residual becomes a loss: ``rho(m) + cosine * (1 - cos(pred, pred - R))`` with ``m = mean_D(R^2)``.

    Args:
        name: ``"l2"``: ``rho = m``. ``"pseudo_huber"``: ``rho = sqrt(m + c^2) - c`` (Song & Dhariwal 2023).
            ``"barron"``: the general robust loss of Barron 2019, equation 1, of shape ``alpha`` and width ``c``.
        c: width, ``>= 0`` for pseudo-Huber and ``> 0`` for Barron; L2 ignores it.
        alpha: shape of Barron: 2 is L2 / (2 c^2), 1 is pseudo-Huber / c, 0 is Cauchy, -2 Geman-McClure, ``-inf``
            Welsch.
        cosine: weight of the cosine term over the whole sample, ``>= 0``; 0 leaves it out.

    Raises:
        TypeError, ValueError: for an unknown name, or a value that is no number or out of range.
    """

    name: str = "l2"
    c: float = 1.0
    alpha: float = 1.0
    cosine: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {self.name!r}")
        for name in ("c", "alpha", "cosine"):
            checks.number(f"metric {name}", getattr(self, name))
        if not (math.isfinite(self.c) and self.c >= 0) or (self.name == "barron" and self.c == 0):
            needed = "a finite number > 0" if self.name == "barron" else "a finite number >= 0"
            raise ValueError(f"metric c must be {needed} for {self.name}, got {self.c!r}")
        if math.isnan(self.alpha) or self.alpha == math.inf:
            raise ValueError(f"metric alpha must be a number or -inf, got {self.alpha!r}")
        if not (math.isfinite(self.cosine) and self.cosine >= 0):
            raise ValueError(f"metric cosine must be a finite number >= 0, got {self.cosine!r}")

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
    """The weight ``1 / (|R|^2 + eps)^power`` of a sample, without gradient (MeanFlow; TiM with power 1).

    ``|R|^2`` is the sum over the sample's elements, ``D m`` in the notation of the losses.

    Raises:
        TypeError, ValueError: if ``power`` is not a finite number or ``eps`` is not a finite number ``> 0``.
    """

    power: float = 1.0
    eps: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("power", "eps"):
            checks.number(f"adaptive {name}", getattr(self, name))
        if not math.isfinite(self.power):
            raise ValueError(f"adaptive power must be finite, got {self.power!r}")
        if not (math.isfinite(self.eps) and self.eps > 0):
            raise ValueError(f"adaptive eps must be a finite number > 0, got {self.eps!r}")

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
    reduction: str
    with_gradient: bool

    SCHEMA: ClassVar[str] = (
        "bool times, bool pred_in_residual, float clip, str metric, float metric_c, float metric_alpha, float cosine, "
        "float? normalize, float power, float eps, str reduction, bool with_gradient"
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
                "normalize and a cosine term exclude each other: set metric cosine to 0 or normalize to None"
            )
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {self.reduction!r}")

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
            None if self.normalize is None else float(self.normalize),
            float(adaptive.power),
            float(adaptive.eps),
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
        normalize: float | None,
        power: float,
        eps: float,
        reduction: str,
        with_gradient: bool,
    ) -> LossOptions:
        """The options that :meth:`flat` made these plain values of."""
        return LossOptions(
            times=times,
            pred_in_residual=pred_in_residual,
            clip=clip,
            metric=Metric(metric, metric_c, metric_alpha, cosine),
            normalize=normalize,
            adaptive=AdaptiveWeight(power, eps) if power else None,
            reduction=reduction,
            with_gradient=with_gradient,
        )

    def gradient_scale(self, batch: int, storage_scale: float) -> float:
        """What the stored gradient of each sample's own loss is multiplied by."""
        return storage_scale / batch if self.reduction == "mean" and batch else storage_scale
