"""Argument checks: every public operation says what is wrong before it does any work."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rcgm_kernels.layout import STORAGE_DTYPES

SCALAR_DTYPES = (torch.float32, torch.float64)
MAX_TERMS = 32


def names(dtypes: Sequence[torch.dtype]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")


def state(name: str, value: object, like: Tensor | None = None) -> Tensor:
    """Check a tensor of states ``[B, ...]``; with ``like``, that it has its shape and device."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.dtype not in STORAGE_DTYPES:
        raise TypeError(f"{name} must be of dtype {names(STORAGE_DTYPES)}, got {names([value.dtype])}")
    if value.ndim == 0:
        raise ValueError(f"{name} must have a batch dimension, got a scalar tensor")
    if like is not None:
        if value.shape != like.shape:
            raise ValueError(f"{name} must have the shape {list(like.shape)}, got {list(value.shape)}")
        same_device(name, value, like)
    return value


def scalars(name: str, value: object, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Check a tensor of per-sample scalars: float32 or float64, of ``shape``, on the device of ``like``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.dtype not in SCALAR_DTYPES:
        raise TypeError(f"{name} must be of dtype {names(SCALAR_DTYPES)}, got {names([value.dtype])}")
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f"{name} must have the shape {list(shape)}, got {list(value.shape)}")
    same_device(name, value, like)
    return value.detach()


def same_device(name: str, value: Tensor, like: Tensor) -> None:
    if value.device != like.device:
        raise ValueError(f"{name} must be on {like.device}, got {value.device}")


def ordered_times(times: Tensor) -> None:
    """Check the values of knots ``[N+2, B]``: ``t_0 > t_1 >= ... >= t_{N+1}``, or all equal.

    Only for CPU tensors: elsewhere it would synchronise, and a sample with unordered knots becomes NaN instead.
    """
    values = times.numpy()  # a handful of numbers: numpy's calls cost a tenth of torch's
    falling = (values[:-1] >= values[1:]).all(axis=0)
    wrong = ~(falling & ((values[0] > values[1]) | (values[1] == values[-1])))
    if wrong.any():
        raise unordered(times, int(wrong.argmax()))


def unordered(times: Tensor, sample: int) -> ValueError:
    """What to raise for knots ``[N+2, B]`` that are not in order in ``sample``."""
    return ValueError(
        "times must fall from t_0 to t_{N+1} in every sample, t_0 above t_1 unless all are equal; "
        f"sample {sample} has {times[:, sample].tolist()}"
    )
