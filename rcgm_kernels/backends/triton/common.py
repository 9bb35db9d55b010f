"""What the Triton kernels share: conversions, and how a batch of samples is cut into blocks."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

INTERPRETED = triton.knobs.runtime.interpret  # settled for good when the kernels are defined
COMPUTE = {torch.float32: tl.float32, torch.float64: tl.float64}
BLOCK = 4096  # elements of a block of a long sample: 16 a thread
SHORT_BLOCK = 1024  # of a block of several short samples, so that a small batch still makes several programs
MOST_ROWS = 128  # samples of a block: what is computed once a sample then takes each thread once


def warps(elements: int) -> int:
    """Warps for a program that holds so many elements."""
    return max(1, min(16, elements // 512))


def block_rows(batch: int, columns: int) -> int:
    """Samples of a block that has so many columns."""
    return min(MOST_ROWS, max(1, SHORT_BLOCK // columns), triton.next_power_of_2(max(batch, 1)))


def tiling(batch: int, size: int) -> tuple[tuple[int], dict[str, int]]:
    """The grid, and the arguments by which :func:`tile` finds a program's block, for element-by-element work."""
    columns = min(triton.next_power_of_2(size), BLOCK)
    rows, chunks = block_rows(batch, columns), triton.cdiv(size, columns)
    block = {"ROWS": rows, "COLUMNS": columns, "num_warps": warps(rows * columns)}
    return (triton.cdiv(batch, rows) * chunks,), {"BATCH": batch, "SIZE": size, "CHUNKS": chunks, **block}


@triton.jit
def tile(BATCH, SIZE, CHUNKS, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Samples [ROWS] and columns [1, COLUMNS] of this program, and which of the samples and of the block exist.

    Samples and columns are int64, as are the offsets made from them: tensors may have more than 2^31 elements.
    """
    program = tl.program_id(0).to(tl.int64)
    rows = (program // CHUNKS) * ROWS + tl.arange(0, ROWS)
    columns = ((program % CHUNKS) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    row_mask = rows < BATCH
    return rows, columns, row_mask, row_mask[:, None] & (columns < SIZE)


@triton.jit
def load(POINTER, stride, rows, columns, mask, COMPUTE: tl.constexpr):
    """A block [ROWS, COLUMNS] of stored samples in the compute dtype; 0 outside ``mask``, where nothing is read.

    ``columns`` are offsets in a sample, the same for all rows [1, COLUMNS] or of each row.
    """
    return widened(load_stored(POINTER, stride, rows, columns, mask), COMPUTE)


@triton.jit
def load_stored(POINTER, stride, rows, columns, mask):
    """The same in the dtype that it is stored in."""
    return tl.load(POINTER + rows[:, None] * stride + columns, mask=mask, other=0.0)


@triton.jit
def store(POINTER, stride, rows, columns, mask, values):
    tl.store(POINTER + rows[:, None] * stride + columns, narrowed(values, POINTER), mask=mask)


@triton.jit
def load_scalars(POINTER, rows, mask):
    """One value a sample, float64."""
    return tl.load(POINTER + rows, mask=mask, other=0.0).to(tl.float64)


@triton.jit
def widened(values, COMPUTE: tl.constexpr):
    """Stored values in the compute dtype; 16-bit formats by way of float32, the conversion that every device has."""
    return values.to(COMPUTE) if values.dtype == tl.float64 else values.to(tl.float32).to(COMPUTE)


@triton.jit
def narrowed(values, POINTER):
    """Computed values in the dtype that ``POINTER`` points to, by way of float32 unless that is float64."""
    element: tl.constexpr = POINTER.dtype.element_ty
    return values.to(tl.float64) if element == tl.float64 else values.to(tl.float32).to(element)
