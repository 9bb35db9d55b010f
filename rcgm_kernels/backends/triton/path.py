"""interpolate and advance in Triton: one launch each."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rcgm_kernels.backends.triton.common import COMPUTE, load, load_scalars, store, tile, tiling
from rcgm_kernels.layout import compute_dtype, dense_samples, sample_size


def interpolate(x: Tensor, z: Tensor, alpha: Tensor, gamma: Tensor, out_dtype: torch.dtype) -> Tensor:
    """See :func:`rcgm_kernels.backends.reference.interpolate`."""
    x, z = dense_samples(x.detach()), dense_samples(z.detach())
    out = torch.empty((alpha.shape[0], *x.shape), dtype=out_dtype, device=x.device)
    if out.numel():
        grid, block = tiling(x.shape[0], sample_size(x))
        _interpolate[grid](
            x, z, alpha.contiguous(), gamma.contiguous(), out, x.stride(0), z.stride(0),
            POINTS=alpha.shape[0], COMPUTE=COMPUTE[compute_dtype(x, z)], **block,
        )  # fmt: skip
    return out


def advance_(out: Tensor, x: Tensor, velocity: Tensor, t: Tensor, r: Tensor) -> None:
    """See :func:`rcgm_kernels.backends.reference.advance_`."""
    x, velocity = dense_samples(x), dense_samples(velocity)
    target = dense_samples(out)  # a copy where the samples of `out` are not dense
    if x.numel():
        grid, block = tiling(x.shape[0], sample_size(x))
        _advance[grid](
            target, x, velocity, t.contiguous(), r.contiguous(), target.stride(0), x.stride(0), velocity.stride(0),
            COMPUTE=COMPUTE[compute_dtype(x, velocity)], **block,
        )  # fmt: skip
    if target is not out:
        out.copy_(target)


@triton.jit(do_not_specialize=["BATCH", "CHUNKS"])
def _interpolate(
    X, Z, ALPHA, GAMMA, OUT, X_STRIDE, Z_STRIDE, BATCH, SIZE, CHUNKS,
    POINTS: tl.constexpr, COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    rows, columns, row_mask, mask = tile(BATCH, SIZE, CHUNKS, ROWS, COLUMNS)
    x = load(X, X_STRIDE, rows, columns, mask, COMPUTE)
    z = load(Z, Z_STRIDE, rows, columns, mask, COMPUTE)
    for point in tl.static_range(POINTS):
        at = rows + point * BATCH.to(tl.int64)
        alpha = load_scalars(ALPHA, at, row_mask).to(COMPUTE)[:, None]
        gamma = load_scalars(GAMMA, at, row_mask).to(COMPUTE)[:, None]
        store(OUT, SIZE, at, columns, mask, alpha * z + gamma * x)


@triton.jit(do_not_specialize=["BATCH", "CHUNKS"])
def _advance(
    OUT, X, VELOCITY, T, R, OUT_STRIDE, X_STRIDE, VELOCITY_STRIDE, BATCH, SIZE, CHUNKS,
    COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    rows, columns, row_mask, mask = tile(BATCH, SIZE, CHUNKS, ROWS, COLUMNS)
    step = (load_scalars(T, rows, row_mask) - load_scalars(R, rows, row_mask)).to(COMPUTE)[:, None]
    x = load(X, X_STRIDE, rows, columns, mask, COMPUTE)
    velocity = load(VELOCITY, VELOCITY_STRIDE, rows, columns, mask, COMPUTE)
    store(OUT, OUT_STRIDE, rows, columns, mask, x - step * velocity)
