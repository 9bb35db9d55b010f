"""Latents as the tokens of networks that take patches of 2x2 for one token."""

from __future__ import annotations

from torch import Tensor

__all__ = ["packed", "unpacked"]


def packed(x: Tensor) -> Tensor:
    """``[B, C, H, W]`` to ``[B, H W / 4, 4 C]``, row by row.

    Raises:
        ValueError: height or width is odd.
    """
    batch, channels, height, width = x.shape
    if height % 2 or width % 2:
        raise ValueError(f"x must have an even height and width, got {list(x.shape)}: choose sizes that fit")
    patches = x.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, height * width // 4, 4 * channels)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """Undo :func:`packed` for latents of this height and width."""
    patches = tokens.reshape(tokens.shape[0], height // 2, width // 2, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(tokens.shape[0], -1, height, width)
