"""Names and tensors of a folder of encoded pairs.

A folder holds a manifest, shards, and the conditions of the empty caption. All samples of a shard have one shape. Where
the text has a mask, its states are stored at their true length: those of all samples one after the other, with the
place where each sample begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

__all__ = [
    "CONDITIONS",
    "LATENTS",
    "MASK",
    "NULL_FILE",
    "OFFSETS",
    "POOLED",
    "SHARD_STEM",
    "TEXT",
    "captions_path",
    "check_conditions",
    "packed_text",
    "shape_text",
]

SHARD_STEM = "text_shard"
NULL_FILE = "null.safetensors"
"""Conditions of the empty caption, each with a leading dimension of 1."""

LATENTS, TEXT, MASK, POOLED, OFFSETS = "latents", "text", "mask", "pooled", "text_offsets"
CONDITIONS = (TEXT, MASK, POOLED)
"""What a condition may hold: ``text`` ``[B, L, C]``, ``mask`` ``[B, L]`` and ``pooled`` ``[B, D]``."""


def captions_path(shard: Path) -> Path:
    """The file of the captions of a shard: ``{"captions": [...], "images": [...]}``, one of each for a sample."""
    return shard.with_name(f"{shard.stem}.captions.json")


def check_conditions(cond: Mapping[str, Tensor], rows: int, where: str) -> None:
    """Check that ``cond`` holds text states, and a mask and a pooled vector that go with them, of ``rows`` samples.

    Raises:
        TypeError: a value is no tensor.
        ValueError: a name, a shape or a dtype is another one.
    """
    unknown = sorted(set(cond) - set(CONDITIONS))
    if unknown or TEXT not in cond:
        raise ValueError(f"{where} must hold {TEXT}, and may hold {MASK} and {POOLED}, got {sorted(cond)}")
    for name, tensor in cond.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name!r} of {where} must be a tensor, got {type(tensor).__name__}")
        axes = 3 if name == TEXT else 2
        if tensor.ndim != axes or tensor.shape[0] != rows or 0 in tensor.shape:
            needed = {TEXT: f"[{rows}, L, C]", MASK: f"[{rows}, L]", POOLED: f"[{rows}, D]"}[name]
            raise ValueError(f"{name!r} of {where} must be {needed}, none of them 0, got {list(tensor.shape)}")
        if name != MASK and not tensor.is_floating_point():
            raise ValueError(f"{name!r} of {where} must be floating, got {tensor.dtype}")
    if MASK in cond and cond[MASK].shape != cond[TEXT].shape[:2]:
        raise ValueError(
            f"{MASK!r} of {where} must be {list(cond[TEXT].shape[:2])}, as {TEXT!r} is, got {list(cond[MASK].shape)}"
        )


def packed_text(cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Conditions ``[B, ...]`` as a shard stores them.

    Returns:
        The tensors by name. With a mask, ``text`` is ``[T, C]``, the states of all samples where the mask is true, and
        ``text_offsets`` int64 ``[B + 1]`` says where each sample begins; the mask is bool.
    """
    stored = dict(cond)
    if MASK in cond:
        mask = cond[MASK].bool()
        stored[MASK] = mask
        stored[TEXT] = cond[TEXT][mask]
        stored[OFFSETS] = torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0))
    return {name: tensor.contiguous() for name, tensor in stored.items()}


def shape_text(shape: tuple[int, ...]) -> str:
    """``4 x 8 x 6``."""
    return " x ".join(map(str, shape))
