"""The exponential moving average of a whole model in one launch."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from rcgm_kernels import checks
from rcgm_kernels.backends import AUTOMATIC, choose
from rcgm_kernels.layout import STORAGE_DTYPES
from rcgm_kernels.library import define

MASTER_DTYPES = (torch.float32, torch.float64)


@torch.no_grad()
def ema_update_(
    ema_params: Iterable[Tensor],
    params: Iterable[Tensor],
    decay: float,
    cast_to: Iterable[Tensor] | None = None,
    *,
    backend: str | None = None,
) -> None:
    """``ema <- decay * ema + (1 - decay) * param`` for every tensor of a model, in one multi-tensor launch.

    Args:
        ema_params: the averages, float32 (or float64) whatever the dtype of the model, updated in place.
        params: the model's tensors, in the same order and of the same shapes; float64, float32, float16 or bfloat16.
            DTensors (sharded parameters) are updated shard by shard, locally.
        decay: from 0 (copy) to 1 (leave as it is).
        cast_to: tensors of the same shapes, of any storage dtype, that receive the new averages in the same pass: the
            bfloat16 or float16 copy for the target forwards. None for no copy.
        backend: None chooses by device or by ``RCGM_BACKEND``.

    Raises:
        TypeError, ValueError: before any work, for an argument that does not fit; the message names it.
    """
    checks.number("decay", decay)
    if math.isnan(decay) or not 0 <= decay <= 1:
        raise ValueError(f"decay must be from 0 to 1, got {decay!r}")
    averages, sources = _local("ema_params", ema_params), _local("params", params)
    copies = [] if cast_to is None else _local("cast_to", cast_to)
    _check_like("params", sources, averages)
    if cast_to is not None:
        _check_like("cast_to", copies, averages)
    for index, average in enumerate(averages):
        if average.dtype not in MASTER_DTYPES:
            raise TypeError(
                f"ema_params[{index}] must be of dtype {checks.names(MASTER_DTYPES)}, "
                f"got {checks.names([average.dtype])}; "
                "a 16-bit average loses every step smaller than its rounding: use cast_to for a 16-bit copy"
            )
    for name, tensors in (("ema_params", averages), ("cast_to", copies)):
        for index, tensor in enumerate(tensors):
            if not tensor.is_contiguous():
                raise ValueError(
                    f"{name}[{index}] must be contiguous to be updated in place, got strides {tensor.stride()}"
                )
    for device in dict.fromkeys(average.device for average in averages):
        here = [index for index, average in enumerate(averages) if average.device == device]
        torch.ops.rcgm_kernels.ema_update_(
            [averages[index] for index in here],
            [sources[index] for index in here],
            float(decay),
            [copies[index] for index in here] if copies else [],
            backend or AUTOMATIC,
        )


def _local(name: str, tensors: Iterable[Tensor]) -> list[Tensor]:
    """The tensors themselves, or of DTensors the shard that lies here."""
    if isinstance(tensors, Tensor):
        raise TypeError(f"{name} must be a sequence of tensors, got one tensor: put it in a list")
    listed = list(tensors)
    for index, tensor in enumerate(listed):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}[{index}] must be a tensor, got {type(tensor).__name__}")
        if tensor.dtype not in STORAGE_DTYPES:
            raise TypeError(
                f"{name}[{index}] must be of dtype {checks.names(STORAGE_DTYPES)}, got {checks.names([tensor.dtype])}"
            )
    return [tensor.to_local() if hasattr(tensor, "to_local") else tensor.detach() for tensor in listed]


def _check_like(name: str, tensors: list[Tensor], averages: list[Tensor]) -> None:
    if len(tensors) != len(averages):
        raise ValueError(f"{name} must have as many tensors as ema_params, {len(averages)}, got {len(tensors)}")
    for index, (tensor, average) in enumerate(zip(tensors, averages, strict=True)):
        if tensor.shape != average.shape:
            raise ValueError(f"{name}[{index}] must have the shape {list(average.shape)}, got {list(tensor.shape)}")
        checks.same_device(f"{name}[{index}]", tensor, average)


def _ema_update_(
    ema_params: list[Tensor], params: list[Tensor], decay: float, cast_to: list[Tensor], backend: str
) -> None:
    choose(backend, ema_params[0].device).ema_update_(ema_params, params, decay, cast_to)
    torch.autograd.graph.increment_version([*ema_params, *cast_to])  # a graph that saved them must not be used


define(
    "ema_update_(Tensor(a!)[] ema_params, Tensor[] params, float decay, Tensor(b!)[] cast_to, str backend) -> ()",
    _ema_update_,
    fake=lambda ema_params, params, decay, cast_to, backend: None,
)
