"""Shapes, strides and dtypes that all operations treat alike."""

from __future__ import annotations

import torch
from torch import Tensor

STORAGE_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any tensor is, else float32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def batched(values: Tensor, like: Tensor) -> Tensor:
    """Per-sample ``values`` ``[B]`` (or a scalar) shaped to multiply ``like`` ``[B, ...]``."""
    return values if values.ndim == 0 else values.reshape(-1, *[1] * (like.ndim - 1))


def sample_size(tensor: Tensor) -> int:
    """Elements of one sample."""
    size = 1
    for extent in tensor.shape[1:]:
        size *= extent
    return size


def dense_samples(tensor: Tensor) -> Tensor:
    """``tensor`` itself if each of its samples is contiguous (the batch may have any stride), else a copy."""
    if tensor.is_contiguous():
        return tensor
    expected = 1
    for extent, stride in zip(reversed(tensor.shape[1:]), reversed(tensor.stride()[1:]), strict=True):
        if extent != 1 and stride != expected:
            return tensor.contiguous()
        expected *= extent
    return tensor
