"""Shapes, strides and dtypes that all operations treat alike."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
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


def has_dense_samples(tensor: Tensor) -> bool:
    """True if each sample of ``tensor`` is contiguous; the batch may have any stride."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for extent, stride in zip(reversed(tensor.shape[1:]), reversed(tensor.stride()[1:]), strict=True):
        if extent != 1 and stride != expected:
            return False
        expected *= extent
    return True


def dense_samples(tensor: Tensor) -> Tensor:
    """``tensor`` itself if each of its samples is contiguous, else a copy."""
    return tensor if has_dense_samples(tensor) else tensor.contiguous()


def dense_order(tensor: Tensor) -> tuple[int, ...] | None:
    """The dimensions in the order in which they are contiguous, as for channels last; None if there are gaps."""
    strides = tensor.stride()
    order = tuple(sorted(range(tensor.ndim), key=strides.__getitem__, reverse=True))
    return order if tensor.permute(order).is_contiguous() else None


def span(tensor: Tensor) -> tuple[int, int]:
    """The addresses from which to which the elements of ``tensor`` lie, with whatever is between them."""
    start = tensor.data_ptr()
    if tensor.is_contiguous():
        return start, start + tensor.nbytes
    last = sum((extent - 1) * stride for extent, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + (last + 1) * tensor.itemsize * (tensor.numel() > 0)


def meetings(tensors: Sequence[Tensor]) -> list[tuple[int, int]]:
    """The pairs of ``tensors``, by their positions, whose spans overlap: all that might share memory."""
    if all(map(Tensor.is_contiguous, tensors)):  # as a rule: quick, since a model has many
        starts = list(map(Tensor.data_ptr, tensors))
        ends = sorted(map(operator.add, starts, [tensor.nbytes for tensor in tensors]))
        if not any(map(operator.lt, sorted(starts)[1:], ends)):
            return []
    spans = [(*span(tensor), position) for position, tensor in enumerate(tensors) if tensor.numel()]
    pairs, still_open = [], []
    for start, end, position in sorted(spans):
        if still_open:
            still_open = [(other_end, other) for other_end, other in still_open if other_end > start]
            pairs += [(other, position) for _, other in still_open]
        still_open.append((end, position))
    return pairs


def is_same_memory(a: Tensor, b: Tensor) -> bool:
    """True if each element of ``a`` is where the same element of ``b`` is."""
    return a is b or (
        a.data_ptr() == b.data_ptr() and a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()
    )


def share_memory(a: Tensor, b: Tensor) -> bool:
    """True if an element of ``a`` shares its memory with one of ``b``, or if that takes too long to find out."""
    if not meetings([a, b]):
        return False
    try:
        return np.shares_memory(_addresses(a), _addresses(b), max_work=1_000_000)
    except np.exceptions.TooHardError:
        return True


def overlaps_itself(tensor: Tensor) -> bool:
    """True if two elements may share their memory. Interlaced elements count as such: nobody needs them."""
    reach = 0
    for stride, extent in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if extent > 1:
            if stride <= reach:
                return tensor.numel() > 0
            reach += (extent - 1) * stride
    return False


def _addresses(tensor: Tensor) -> np.ndarray:
    """An array at the addresses of ``tensor``, on whatever device: to ask for what it shares, never to be read."""
    size = tensor.itemsize
    return np.asarray(
        _Memory(
            {
                "version": 3,
                "typestr": f"|V{size}",
                "data": (tensor.data_ptr(), True),
                "shape": tuple(tensor.shape),
                "strides": tuple(stride * size for stride in tensor.stride()),
            }
        )
    )


class _Memory:
    def __init__(self, interface: dict[str, object]) -> None:
        self.__array_interface__ = interface
