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
    "MASKS",
    "NULL_FILE",
    "POOLED",
    "SHARD_STEM",
    "TEXT",
    "TEXTS",
    "captions_path",
    "check_conditions",
    "offsets_of",
    "packed_text",
    "shape_text",
]

SHARD_STEM = "text_shard"
NULL_FILE = "null.safetensors"
"""Conditions of the empty caption, each with a leading dimension of 1."""

LATENTS, TEXT, POOLED = "latents", "text", "pooled"
TEXTS = {TEXT: "mask", "text_2": "mask_2"}
"""Text states ``[B, L, C]``, and their masks ``[B, L]``; some networks take the states of a second text encoder."""
MASKS = {mask: text for text, mask in TEXTS.items()}
CONDITIONS = (*TEXTS, *MASKS, POOLED)
"""What a condition may hold: see ``TEXTS``, and ``pooled`` ``[B, D]``. ``text`` must be there."""


def offsets_of(text: str) -> str:
    """Name of the array that says where the states of each sample begin."""
    return f"{text}_offsets"


def captions_path(shard: Path) -> Path:
    """The file of the captions of a shard: ``{"captions": [...], "images": [...]}``, one of each for a sample."""
    return shard.with_name(f"{shard.stem}.captions.json")


def check_conditions(cond: Mapping[str, Tensor], rows: int, where: str) -> None:
    """Check that ``cond`` holds text states, and a mask and a pooled vector that go with them, of ``rows`` samples.

    Raises:
        TypeError: a value is no tensor.
        ValueError: a name, a shape or a dtype is another one.
    """
    if set(cond) - set(CONDITIONS) or TEXT not in cond:
        others = ", ".join(name for name in CONDITIONS if name != TEXT)
        raise ValueError(f"{where} must hold {TEXT}, and may hold {others}, got {sorted(cond)}")
    for name, tensor in cond.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name!r} of {where} must be a tensor, got {type(tensor).__name__}")
        axes = {**dict.fromkeys(TEXTS, "L, C"), **dict.fromkeys(MASKS, "L"), POOLED: "D"}[name]
        if tensor.ndim != 1 + len(axes.split(",")) or tensor.shape[0] != rows or 0 in tensor.shape:
            raise ValueError(f"{name!r} of {where} must be [{rows}, {axes}], none of them 0, got {list(tensor.shape)}")
        if name not in MASKS and not tensor.is_floating_point():
            raise ValueError(f"{name!r} of {where} must be floating, got {tensor.dtype}")
    for mask, text in MASKS.items():
        if mask in cond and (text not in cond or cond[mask].shape != cond[text].shape[:2]):
            needed = list(cond[text].shape[:2]) if text in cond else f"left out without {text!r}"
            raise ValueError(f"{mask!r} of {where} must be {needed}, got {list(cond[mask].shape)}")


def packed_text(cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Conditions ``[B, ...]`` as a shard stores them.

    Returns:
        The tensors by name. With a mask, text states are ``[T, C]``, those of all samples where the mask is true, and
        their offsets int64 ``[B + 1]`` say where each sample begins; the mask is bool.
    """
    stored = dict(cond)
    for text, name in TEXTS.items():
        if name in cond:
            mask = cond[name].bool()
            stored[name] = mask
            stored[text] = cond[text][mask]
            stored[offsets_of(text)] = torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0))
    return {name: tensor.contiguous() for name, tensor in stored.items()}


def shape_text(shape: tuple[int, ...]) -> str:
    """``4 x 8 x 6``."""
    return " x ".join(map(str, shape))
