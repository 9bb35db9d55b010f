"""scale_gradient_ in Triton."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rcgm_kernels.backends.triton.common import COMPUTE, load, load_scalars, store, tile, tiling
from rcgm_kernels.layout import compute_dtype, sample_size


def scale_gradient_(gradient: Tensor, upstream: Tensor, scales: Tensor) -> None:
    """See :func:`rcgm_kernels.backends.reference.scale_gradient_`."""
    if not gradient.numel():
        return
    grid, block = tiling(gradient.shape[0], sample_size(gradient))
    _scale[grid](
        gradient, upstream.contiguous(), scales if scales.numel() else None, gradient.stride(0),
        PER_SAMPLE=upstream.ndim == 1, COMPUTE=COMPUTE[compute_dtype(gradient, upstream)], **block,
    )  # fmt: skip


@triton.jit(do_not_specialize=["BATCH", "CHUNKS"])
def _scale(
    GRADIENT, UPSTREAM, SCALES, STRIDE, BATCH, SIZE, CHUNKS,
    PER_SAMPLE: tl.constexpr, COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    rows, columns, row_mask, mask = tile(BATCH, SIZE, CHUNKS, ROWS, COLUMNS)
    upstream = load_scalars(UPSTREAM, rows if PER_SAMPLE else rows * 0, row_mask)
    if SCALES is not None:
        upstream /= tl.load(SCALES + rows, mask=row_mask, other=1.0).to(tl.float64)
    factor = upstream.to(COMPUTE)
    if tl.max((row_mask & (factor != 1)).to(tl.int32), axis=0) != 0:  # a factor of 1: neither read nor written
        values = load(GRADIENT, STRIDE, rows, columns, mask, COMPUTE)
        store(GRADIENT, STRIDE, rows, columns, mask, values * factor[:, None])
