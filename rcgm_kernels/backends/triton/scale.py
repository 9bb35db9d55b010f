"""scale_gradient_ in Triton."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rcgm_kernels.backends.triton.common import COMPUTE, block_for, narrowed, warps, widened
from rcgm_kernels.layout import compute_dtype, sample_size


def scale_gradient_(gradient: Tensor, upstream: Tensor, divisor: float) -> None:
    """See :func:`rcgm_kernels.backends.reference.scale_gradient_`."""
    batch, size = gradient.shape[0], sample_size(gradient)
    if batch == 0 or size == 0:
        return
    columns = block_for(size)
    chunks = triton.cdiv(size, columns)
    _scale[(batch * chunks,)](
        gradient, upstream.contiguous(), size, chunks, gradient.stride(0), divisor, upstream.ndim == 1,
        COMPUTE[compute_dtype(gradient)], columns, num_warps=warps(columns),
    )  # fmt: skip


@triton.jit
def _scale(
    GRADIENT, UPSTREAM, SIZE, CHUNKS, STRIDE,
    DIVISOR: tl.constexpr, PER_SAMPLE: tl.constexpr, COMPUTE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    row = program // CHUNKS
    factor = (tl.load(UPSTREAM + (row if PER_SAMPLE else 0)).to(tl.float64) / DIVISOR).to(COMPUTE)
    if factor != 1:
        columns = (program % CHUNKS) * COLUMNS + tl.arange(0, COLUMNS)
        at = GRADIENT + row * STRIDE + columns
        values = widened(tl.load(at, mask=columns < SIZE, other=0.0), COMPUTE) * factor
        tl.store(at, narrowed(values, GRADIENT), mask=columns < SIZE)
