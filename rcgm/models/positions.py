"""Positions of the cells of a grid: fixed sinusoids to add to tokens, rotations of queries and keys."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rcgm.checks import whole_number

__all__ = ["POSITIONS", "rotate", "rotations_2d", "sincos_positions_2d"]

POSITIONS = ("sincos", "rope", "sincos_rope")
"""Sinusoids are added to the tokens (DiT, SiT), queries and keys are rotated (TiM), or both (LightningDiT)."""


def sincos_positions_2d(size: int, grid: tuple[int, int]) -> Tensor:
    """Fixed sine-cosine positions of a grid of ``(rows, columns)`` cells, which need not be square.

    A cell's first ``size / 2`` features tell its column and the rest its row: sines, then cosines, at ``size / 4``
    frequencies, geometric from 1 to about 1/10,000. Cells come row by row.

    Args:
        size: number of features, a positive multiple of 4.
        grid: rows and columns, both positive.

    Returns:
        ``[rows * columns, size]``, float64, on the CPU.

    Raises:
        TypeError: a size is no int.
        ValueError: a size is out of its range.

    Source: DiT, section 3.2 (ViT's frequency-based version); columns first, as its published weights have it.
    """
    row_phases, column_phases = _phases(size, grid)
    parts = [column_phases.sin(), column_phases.cos(), row_phases.sin(), row_phases.cos()]
    return torch.cat(parts, dim=2).reshape(-1, size)


def rotations_2d(size: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rotations of queries and keys by position, of a grid of ``(rows, columns)`` cells, which need not be square.

    The first half of a head's features is rotated by the row, the second by the column; neighbouring features are a
    pair, and all pairs of a half turn at frequencies geometric from 1 to about 1/10,000. The product of a rotated query
    and a rotated key depends on the difference of their positions alone. Cells come row by row.

    Args:
        size: features of a head, a positive multiple of 4.
        grid: rows and columns, both positive.

    Returns:
        Cosines and sines, each ``[rows * columns, size]``, both members of a pair alike; float64, on the CPU.

    Raises:
        TypeError: a size is no int.
        ValueError: a size is out of its range.

    Source: Su et al. 2021; in two dimensions as in EVA-02 and LightningDiT's published code.
    """
    phases = torch.cat(_phases(size, grid), dim=2).repeat_interleave(2, dim=2).reshape(-1, size)
    return phases.cos(), phases.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """``x`` ``[B, T, H, size]`` rotated by :func:`rotations_2d`, in the dtype that ``x`` and those promote to."""
    cosines, sines = cosines.unsqueeze(1), sines.unsqueeze(1)
    even, odd = x.unflatten(3, (-1, 2)).unbind(4)
    turned = torch.stack([-odd, even], dim=4).flatten(3)
    return x * cosines + turned * sines


def _phases(size: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    whole_number("size", size)
    if size % 4:
        raise ValueError(f"size must be a multiple of 4 (sine and cosine of row and column), got {size}")
    rows, columns = (whole_number(f"grid[{axis}]", cells) for axis, cells in enumerate(grid))
    quarter = size // 4
    # Made on the CPU whatever the ambient device, so that a model built on the meta device can still fill it in later.
    axis = {"dtype": torch.float64, "device": "cpu"}
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(quarter, **axis) / quarter)
    row_phases = torch.arange(rows, **axis)[:, None, None] * frequencies
    column_phases = torch.arange(columns, **axis)[None, :, None] * frequencies
    return row_phases.expand(rows, columns, quarter), column_phases.expand(rows, columns, quarter)
