"""Checks of what a network is called with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


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


def check_text(batch: int, width: int, cond: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """``text`` and ``mask``, as bool, of a condition: states ``[batch, L, width]`` and ``[batch, L]`` or None."""
    if not isinstance(cond, Mapping):
        raise TypeError(f"cond must be a mapping with text and, if need be, mask, got {type(cond).__name__}")
    text, mask = cond.get("text"), cond.get("mask")
    if not isinstance(text, Tensor) or text.ndim != 3 or text.shape[::2] != (batch, width):
        got = list(text.shape) if isinstance(text, Tensor) else f"{type(text).__name__}"
        raise ValueError(f"cond must have a text of shape [{batch}, L, {width}], got {got}")
    if mask is not None and mask.shape != text.shape[:2]:
        raise ValueError(f"cond must have a mask of shape {list(text.shape[:2])}, got {list(mask.shape)}")
    return text, None if mask is None else mask.bool()
