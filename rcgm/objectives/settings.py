"""Settings that every objective has: times, path, guidance, number formats, and how a residual becomes a loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from rcgm.checks import one_of
from rcgm.derivatives import Central, Estimator
from rcgm.engine.queries import TEACHER
from rcgm.objectives.guidance import Guidance
from rcgm.objectives.times import TimeSampler
from rcgm.objectives.weights import Weighting
from rcgm.transports import Linear, Transport
from rcgm_kernels import AdaptiveWeight, Metric

SUPERVISIONS = ("data", "teacher")
DTYPES = ("float32", "float16", "bfloat16")
REDUCES = ("mean", "sum")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that every objective has.

    Args:
        times: how ``t`` and ``r`` are drawn.
        transport: the path between data and noise, and what the network predicts.
        supervision: where the regression target comes from: ``"data"``, the pair of data and noise (training from
            scratch), or ``"teacher"``, the instantaneous prediction of a frozen network (distillation).
        guidance: training-time guidance; None for none.
        derivative: how derivatives along the path are estimated, for objectives that ask for one.
        target_dtype: number format of the forwards without gradient, ``"float32"``, ``"float16"`` or ``"bfloat16"``;
            None takes that of the training step (math.md section 6). A sample whose forwards leave the range of float16
            gets weight 0 in that step, and is counted; so it is where the target network itself is cast to float16.
        clip: bound of the residual's clamp, ``> 0``; None for none. Some transports multiply the errors of a network, a
            teacher or guidance: ``ve``, whose states are as large as sigma, and ``vp`` and ``edm``, whose states hold
            almost no data at ``t = 1``. Without a clip, losses of 1e6 and more are then normal.
        metric: how the residual becomes a loss.
        normalize: constant of the tangent normalisation (sCM), ``>= 0``; None for none.
        normalize_scale: number by which the normalised residual is multiplied; None for 1.
        reduce: over the D elements of a sample, ``"mean"`` or ``"sum"``. A sum makes loss and gradient D times larger,
            relative to the eps of the optimizer, a clipped norm, and the constants of metric and adaptive weight.
        adaptive: adaptive weight of the samples; None for none.
        sample_weight: weight of a sample as a function of its times, one of ``SAMPLE_WEIGHTS`` or any function of ``t``
            and ``r`` ``[B]`` that gives ``[B]``; None for none.
        label_dropout: probability, from 0 to 1, that the condition of a sample is replaced by the null one.

    Raises:
        TypeError, ValueError: for a value out of range, or values that contradict one another.
    """

    times: TimeSampler = field(default_factory=TimeSampler)
    transport: Transport = field(default_factory=Linear)
    supervision: str = "data"
    guidance: Guidance | None = None
    derivative: Estimator = field(default_factory=Central)
    target_dtype: str | None = None
    clip: float | None = None
    metric: Metric = field(default_factory=Metric)
    normalize: float | None = None
    normalize_scale: float | None = None
    reduce: str = "mean"
    adaptive: AdaptiveWeight | None = None
    sample_weight: Weighting | None = None
    label_dropout: float = 0.0

    def __post_init__(self) -> None:
        one_of("supervision", self.supervision, SUPERVISIONS)
        if self.target_dtype is not None and self.target_dtype not in DTYPES:
            raise ValueError(f"target_dtype must be one of {', '.join(DTYPES)} or None, got {self.target_dtype!r}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be > 0 or None, got {self.clip!r}")
        if self.normalize is not None and not 0 <= self.normalize < math.inf:
            raise ValueError(f"normalize must be a finite number >= 0 or None, got {self.normalize!r}")
        self._check_normalize()
        one_of("reduce", self.reduce, REDUCES)
        if self.sample_weight is not None and not callable(self.sample_weight):
            raise TypeError(f"sample_weight must be a function of t and r, got {type(self.sample_weight).__name__}")
        if not 0 <= self.label_dropout <= 1:
            raise ValueError(f"label_dropout must be a probability from 0 to 1, got {self.label_dropout!r}")

    def _check_normalize(self) -> None:
        if self.normalize_scale is not None:
            if self.normalize is None:
                raise ValueError(f"normalize_scale must be None without normalize, got {self.normalize_scale!r}")
            if not math.isfinite(self.normalize_scale):
                raise ValueError(f"normalize_scale must be a finite number or None, got {self.normalize_scale!r}")
        if self.normalize is not None and self.metric.cosine:
            raise ValueError(
                "normalize must be None with a cosine term, which needs the regression target that a normalised "
                f"residual does not have, got {self.normalize!r} and metric cosine {self.metric.cosine!r}"
            )

    def needs_teacher(self) -> bool:
        """True if a call needs ``teacher``."""
        return self.supervision == "teacher" or (self.guidance is not None and self.guidance.network == TEACHER)

    def needs_null_condition(self) -> bool:
        """True if a call with a condition needs ``null_cond`` too."""
        return self.label_dropout > 0 or (self.guidance is not None and self.guidance.asks_null)

    def loss_options(self) -> dict[str, Any]:
        """The options of the fused loss."""
        names = ("clip", "metric", "normalize", "normalize_scale", "reduce", "adaptive")
        return {name: getattr(self, name) for name in names}
