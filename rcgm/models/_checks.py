"""Checks of arguments that the networks share."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def positive_int(name: str, value: int) -> int:
    """``value``, if it is an int of at least 1; otherwise TypeError or ValueError naming ``name``."""
    # bool is an int in Python, and `depth: yes` in YAML is a bool.
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value


def positive_float(name: str, value: float) -> float:
    """``value`` as a float, if it is a finite number above 0; otherwise TypeError or ValueError naming ``name``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be positive and finite, got {value}")
    return float(value)


def boolean(name: str, value: bool) -> bool:
    """``value``, if it is a bool; otherwise TypeError naming ``name``."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r} of type {type(value).__name__}")
    return value


def one_of(name: str, value: str, known: Iterable[str]) -> str:
    """``value``, if it is among ``known``; otherwise ValueError naming ``name``."""
    known = list(known)
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    return value


def check_points(x: Tensor, shape: tuple[int, ...]) -> None:
    """Raise unless ``x`` is a floating-point tensor of shape ``[B, *shape]``."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a floating-point tensor, got {got}")
    if x.ndim != 1 + len(shape) or x.shape[1:] != shape:
        raise ValueError(f"x must have shape [B, {', '.join(map(str, shape))}], got {list(x.shape)}")


def check_times(batch: int, t: Tensor, r: Tensor) -> None:
    """Raise unless ``t`` and ``r`` are float32 or float64 tensors of shape ``[batch]``."""
    for name, time in (("t", t), ("r", r)):
        if not isinstance(time, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(time).__name__}")
        if time.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"{name} must be float32 or float64, got {time.dtype}; half precision cannot tell near times apart, "
                "so keep whatever casts a network's inputs away from its times"
            )
        if time.shape != (batch,):
            raise ValueError(f"{name} must have shape [{batch}], one time for each sample of x, got {list(time.shape)}")


def check_labels(batch: int, num_classes: int | None, cond: Tensor | None) -> None:
    """Raise unless ``cond`` is what a network with ``num_classes`` classes needs: int ``[batch]``, or None for None."""
    if num_classes is None:
        if cond is not None:
            raise ValueError("cond must be None: this network was built with num_classes=None")
        return
    if cond is None:
        raise ValueError(
            f"cond must be class indices of shape [{batch}], got None; the null class of this network is {num_classes}"
        )
    if not isinstance(cond, Tensor):
        raise TypeError(f"cond must be a tensor of class indices, got {type(cond).__name__}")
    if cond.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"cond must hold class indices in int64 or int32, got {cond.dtype}")
    if cond.shape != (batch,):
        raise ValueError(f"cond must have shape [{batch}], one class for each sample of x, got {list(cond.shape)}")
