"""How tensors and options are handed to the C++ and CUDA extensions: as addresses and numbers.

The other side is csrc/common/arrays.h.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rcgm_kernels.options import METRICS, LossOptions

DTYPES = {torch.float64: 0, torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}
NO_ARRAY = (0, 0, 0)


def array(tensor: Tensor) -> tuple[int, int, int]:
    """Address, distance between samples in elements, dtype."""
    return tensor.data_ptr(), tensor.stride(0), DTYPES[tensor.dtype]


def loss_options(options: LossOptions, batch: int, storage_scale: float) -> tuple[float | int, ...]:
    """The fields of the struct LossOptions, in its order."""
    metric, adaptive = options.metric, options.adaptive
    return (
        options.clip,
        METRICS.index(metric.name),
        metric.c,
        metric.alpha,
        metric.cosine,
        -1.0 if options.normalize is None else options.normalize,
        0.0 if adaptive is None else adaptive.power,
        0.0 if adaptive is None else adaptive.eps,
        options.gradient_scale(batch, storage_scale),
    )
