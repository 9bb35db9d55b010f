"""What a backend needs to know of a fused loss beside its tensors."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from rcgm_kernels.inputs import LossInputs
from rcgm_kernels.layout import compute_dtype, has_dense_samples, sample_size
from rcgm_kernels.options import ADAPTIVE_OF, METRICS, NOT_ADAPTIVE, REDUCES, REDUCTIONS, LossOptions


@dataclass(frozen=True, eq=False)
class LossPlan:
    """The options of a fused loss, and what follows from them and from shapes, strides and dtypes.

    It holds no tensor and depends on no value: calls of the same kind share one.

    Args:
        options: the options.
        batch: samples.
        size: elements of one sample.
        dtype: of the arithmetic and of the loss, float32 or float64.
        positions: of a sample, at each of which a cosine term is over the channels; 0: it is over the sample.
        scaled: whether the gradient is stored with a scale for each sample (:meth:`LossOptions.gradient_is_scaled`).
        dense: whether the prediction and all terms have dense samples.
    """

    options: LossOptions
    batch: int
    size: int
    dtype: torch.dtype
    positions: int
    scaled: bool
    dense: bool

    @staticmethod
    def of(inputs: LossInputs, options: LossOptions) -> LossPlan:
        """The plan of a call with these tensors."""
        pred = inputs.pred
        return LossPlan(
            options=options,
            batch=pred.shape[0],
            size=sample_size(pred),
            dtype=compute_dtype(pred, *inputs.terms),
            positions=options.positions(pred.shape),
            scaled=options.gradient_is_scaled(pred.dtype),
            dense=all(map(has_dense_samples, (pred, *inputs.terms))),
        )

    @functools.cached_property
    def numbers(self) -> tuple[float | int, ...]:
        """The fields of the struct LossOptions in csrc/common/arrays.h, in its order."""
        options, metric, adaptive = self.options, self.options.metric, self.options.adaptive or NOT_ADAPTIVE
        return (
            options.times,
            options.pred_in_residual,
            options.clip,
            METRICS.index(metric.name),
            metric.c,
            metric.alpha,
            metric.cosine,
            self.positions,
            -1.0 if options.normalize is None else options.normalize,
            adaptive.power,
            adaptive.eps,
            ADAPTIVE_OF.index(adaptive.of),
            REDUCES.index(options.reduce),
            options.share(self.batch),
            self.scaled,
            REDUCTIONS.index(options.reduction),
        )


Results = tuple[Tensor, Tensor | None, Tensor | None]
"""A loss, its gradient to the prediction, and the scales ``[B]`` that this is stored with; None where there is none."""


def new_results(pred: Tensor, dtype: torch.dtype, options: LossOptions) -> Results:
    """New tensors for the results, the loss in ``dtype``."""
    batch, device = pred.shape[:1], pred.device
    gradient = scales = None
    if options.with_gradient:
        gradient = torch.empty_like(pred, memory_format=torch.contiguous_format, requires_grad=False)
        if options.gradient_is_scaled(pred.dtype):
            scales = torch.empty(batch, dtype=torch.float32, device=device)
    return torch.empty(batch if options.reduction == "none" else (), dtype=dtype, device=device), gradient, scales
