"""Argument checks: every public operation says what is wrong before it does any work."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from rcgm_kernels.layout import STORAGE_DTYPES, overlaps_itself

SCALAR_DTYPES = (torch.float32, torch.float64)
MAX_TERMS = 32
DETACH = "detach() it"


def names(dtypes: Sequence[torch.dtype]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")


def dense(name: str, value: object) -> Tensor:
    """Check a tensor that has an address, strides and a storage dtype."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.dtype not in STORAGE_DTYPES:
        raise TypeError(f"{name} must be of dtype {names(STORAGE_DTYPES)}, got {names([value.dtype])}")
    if value.layout is not torch.strided or value.is_nested:
        layout = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
        raise TypeError(f"{name} must be a dense tensor, got layout {layout}: convert it, with to_dense() as a rule")
    return value


def state(name: str, value: object, like: Tensor | None = None) -> Tensor:
    """Check a tensor of states ``[B, ...]``; with ``like``, that it has its shape and device."""
    dense(name, value)
    if value.ndim == 0:
        raise ValueError(f"{name} must have a batch dimension, got a scalar tensor")
    if like is not None:
        fits(name, value, like)
    return value


def fits(name: str, value: Tensor, like: Tensor) -> None:
    """Check that a tensor has the shape of ``like`` and is where that is."""
    if value.shape != like.shape:
        raise ValueError(f"{name} must have the shape {list(like.shape)}, got {list(value.shape)}")
    same_device(name, value, like)


def writable(name: str, value: Tensor) -> None:
    """Check that a dense tensor can be written in place: its memory holds its elements, each of which has its own."""
    if torch.compiler.is_compiling():
        return  # the compiled operation asks when it runs
    if value.is_neg() or value._is_zerotensor():
        kind = "a view with the negative bit" if value.is_neg() else "a tensor of zeros without memory"
        raise ValueError(f"{name} must hold its own elements to be written in place, got {kind}: write into a clone")
    if not value.is_contiguous() and overlaps_itself(value):
        raise ValueError(f"{name} must have memory for each element, got strides {value.stride()}: write into a clone")


def stored_scalars(name: str, value: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    """Check per-sample numbers as an operation takes them: float32 or float64, of ``shape``, where ``like`` is."""
    dense(name, value)
    if value.dtype not in SCALAR_DTYPES:
        raise TypeError(f"{name} must be of dtype {names(SCALAR_DTYPES)}, got {names([value.dtype])}")
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f"{name} must have the shape {list(shape)}, got {list(value.shape)}")
    same_device(name, value, like)


def stored_rows(name: str, value: Tensor, like: Tensor) -> None:
    """Check rows of per-sample numbers ``[P, B]`` as an operation takes them."""
    dense(name, value)
    if value.ndim != 2 or not 1 <= value.shape[0] <= MAX_TERMS:
        wanted = f"[P, {like.shape[0]}] with P from 1 to {MAX_TERMS}"
        raise ValueError(f"{name} must have the shape {wanted}, got {list(value.shape)}")
    stored_scalars(name, value, (value.shape[0], like.shape[0]), like)


def has_tangent(value: Tensor) -> bool:
    """True if a tensor is a dual number of forward-mode differentiation."""
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(value).tangent is not None


def scalars(name: str, value: object, like: Tensor, advice: str = DETACH) -> Tensor:
    """Per-sample numbers ``[B]`` for a batch ``like``, in float32 or float64, from what a caller may give.

    That is one number for all samples, or a tensor of a storage dtype: ``[]``, ``[B]`` or ``[B, 1, ...]``. Nothing is
    rounded. ``advice`` says what to do with a tensor that requires a gradient, which would get none.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return like.new_full(like.shape[:1], float(value), dtype=torch.float64)
    return _numbers(name, value, like.shape[:1], like, advice)


def rows(name: str, value: object, like: Tensor, count: int | None = None) -> Tensor:
    """Per-sample numbers ``[K, B]`` in float32 or float64: from such a tensor, or from a sequence of K :func:`scalars`.

    ``count`` is the K that is needed; None takes from 1 to ``MAX_TERMS``.
    """
    batch = like.shape[0]
    if isinstance(value, Tensor):
        dense(name, value)
        if count is None and not (value.ndim > 1 and 1 <= value.shape[0] <= MAX_TERMS):
            wanted = f"[P, {batch}] with P from 1 to {MAX_TERMS}"
            raise ValueError(f"{name} must have the shape {wanted}, got {list(value.shape)}")
        return _numbers(name, value, (value.shape[0] if count is None else count, batch), like, DETACH)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"{name} must be a tensor or a sequence of numbers and tensors, got {type(value).__name__}")
    found = len(value)
    if count is None and not 1 <= found <= MAX_TERMS:
        raise ValueError(f"{name} must have from 1 to {MAX_TERMS} entries, got {found}")
    count = found if count is None else count
    if found != count:
        raise ValueError(f"{name} must have {count} entries, got {found}")
    given = [scalars(f"{name}[{index}]", entry, like) for index, entry in enumerate(value)]
    if len({entry.dtype for entry in given}) > 1:
        given = [entry.double() for entry in given]
    return torch.stack(given) if given else like.new_empty((0, batch), dtype=torch.float32)


def _numbers(name: str, value: object, shape: tuple[int, ...], like: Tensor, advice: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor or a number, got {type(value).__name__}")
    dense(name, value)
    same_device(name, value, like)
    if value.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} must not require a gradient, since it would get none: {advice}")
    if has_tangent(value):
        raise ValueError(f"{name} must not be a dual number, since its tangent would be lost: {advice}")
    if value.shape != shape:
        given = tuple(value.shape)
        if given and given[: len(shape)] == tuple(shape) and all(extent == 1 for extent in given[len(shape) :]):
            value = value.reshape(shape)
        elif not given and len(shape) == 1:
            value = value.expand(shape)
        else:
            raise ValueError(f"{name} must have the shape {list(shape)}, got {list(given)}")
    return value if value.dtype in SCALAR_DTYPES else value.float()


def same_device(name: str, value: Tensor, like: Tensor) -> None:
    if value.device != like.device:
        raise ValueError(f"{name} must be on {like.device}, got {value.device}")


def ordered_times(times: Tensor, weight: Tensor | None = None) -> None:
    """Check the values of knots ``[N+2, B]``: finite, ``t_0 > t_1 >= ... >= t_{N+1}``, or all equal.

    Only for CPU tensors: elsewhere it would synchronise, and a sample with such knots becomes NaN instead. Samples of
    weight 0 may hold anything.
    """
    values = times.numpy()  # a handful of numbers: numpy's calls cost a tenth of torch's
    falling = (values[:-1] >= values[1:]).all(axis=0) & np.isfinite(values).all(axis=0)
    wrong = ~(falling & ((values[0] > values[1]) | (values[1] == values[-1])))
    if weight is not None:
        wrong &= weight.numpy() != 0
    if wrong.any():
        raise unordered(times, int(wrong.argmax()))


def unordered(times: Tensor, sample: int) -> ValueError:
    """What to raise for knots ``[N+2, B]`` that are not finite and in order in ``sample``."""
    return ValueError(
        "times must fall from t_0 to t_{N+1} in every sample, finite, t_0 above t_1 unless all are equal; "
        f"sample {sample} has {times[:, sample].tolist()}"
    )
