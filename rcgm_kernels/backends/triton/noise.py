"""Noise drawn in the kernel, in Triton: the counters and the formulas of csrc/common/noise.h."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from rcgm_kernels.backends.triton.common import COMPUTE, load, load_scalars, store, tile, tiling
from rcgm_kernels.layout import compute_dtype, dense_samples, sample_size


def interpolate_drawn(
    x: Tensor, seed: Tensor, offset: int, stream: int, alpha: Tensor, gamma: Tensor, out_dtype: torch.dtype
) -> Tensor:
    """See :func:`rcgm_kernels.backends.reference.interpolate_drawn`."""
    x = dense_samples(x.detach())
    out = torch.empty((alpha.shape[0], *x.shape), dtype=out_dtype, device=x.device)
    if out.numel():
        grid, block = _tiling(x.shape[0], sample_size(x))
        _interpolate_drawn[grid](
            x, seed, alpha.contiguous(), gamma.contiguous(), out, x.stride(0), offset, stream,
            POINTS=alpha.shape[0], COMPUTE=COMPUTE[compute_dtype(x)], **block,
        )  # fmt: skip
    return out


def standard_normal(seed: Tensor, shape: Sequence[int], offset: int, stream: int, dtype: torch.dtype) -> Tensor:
    """See :func:`rcgm_kernels.backends.reference.standard_normal`."""
    out = torch.empty(tuple(shape), dtype=dtype, device=seed.device)
    if out.numel():
        grid, block = _tiling(out.shape[0], sample_size(out))
        _standard_normal[grid](seed, out, offset, stream, **block)
    return out


def _tiling(batch: int, size: int) -> tuple[tuple[int], dict[str, int]]:
    """The grid and block of element-by-element work, in whole blocks of four elements."""
    grid, block = tiling(batch, max(size, 4))
    return grid, {**block, "SIZE": size}


@triton.jit(do_not_specialize=["BATCH", "CHUNKS", "OFFSET", "STREAM"])
def _interpolate_drawn(
    X, SEED, ALPHA, GAMMA, OUT, X_STRIDE, OFFSET, STREAM, BATCH, SIZE, CHUNKS,
    POINTS: tl.constexpr, COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    rows, columns, row_mask, mask = tile(BATCH, SIZE, CHUNKS, ROWS, COLUMNS)
    x = load(X, X_STRIDE, rows, columns, mask, COMPUTE)
    z = _normals(SEED, OFFSET, STREAM, rows, CHUNKS, COLUMNS).to(COMPUTE)
    for point in tl.static_range(POINTS):
        at = rows + point * BATCH.to(tl.int64)
        alpha = load_scalars(ALPHA, at, row_mask).to(COMPUTE)[:, None]
        gamma = load_scalars(GAMMA, at, row_mask).to(COMPUTE)[:, None]
        store(OUT, SIZE, at, columns, mask, alpha * z + gamma * x)


@triton.jit(do_not_specialize=["BATCH", "CHUNKS", "OFFSET", "STREAM"])
def _standard_normal(
    SEED, OUT, OFFSET, STREAM, BATCH, SIZE, CHUNKS, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    rows, columns, _, mask = tile(BATCH, SIZE, CHUNKS, ROWS, COLUMNS)
    store(OUT, SIZE, rows, columns, mask, _normals(SEED, OFFSET, STREAM, rows, CHUNKS, COLUMNS))


@triton.jit
def _normals(SEED, OFFSET, STREAM, rows, CHUNKS, COLUMNS: tl.constexpr):
    """Standard normal numbers [ROWS, COLUMNS] of the block that ``tile`` found."""
    chunk = tl.program_id(0).to(tl.int64) % CHUNKS
    blocks = (chunk * (COLUMNS // 4) + tl.arange(0, COLUMNS // 4)).to(tl.uint32)[None, :]
    samples = (OFFSET.to(tl.int64) + rows).to(tl.uint64)[:, None]
    zero = tl.zeros((rows.shape[0], COLUMNS // 4), dtype=tl.uint32)
    first, second, third, fourth = tl.philox(
        tl.load(SEED), zero + blocks, zero + STREAM.to(tl.uint32),
        zero + (samples & 0xFFFFFFFF).to(tl.uint32), zero + (samples >> 32).to(tl.uint32),
    )  # fmt: skip
    a, b = _pair(first, second)
    c, d = _pair(third, fourth)
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (rows.shape[0], COLUMNS))


@triton.jit
def _pair(radial, angular):
    """Box-Muller, by the polynomials of csrc/common/noise.h: the functions of a GPU are less exact, or slower."""
    radius = tl.sqrt_rn(-2.0 * _log(tl.fma(radial.to(tl.float32), 2.0**-32, 2.0**-33)))
    quarter = (angular + 0x20000000) >> 30
    angle = (angular - (quarter << 30)).to(tl.int32, bitcast=True).to(tl.float32) * 1.4629180792671596e-9
    square = angle * angle
    s = tl.fma(square, -1.9515295891e-4, 8.3321608736e-3)
    s = tl.fma(s, square, -1.6666654611e-1)
    s = tl.fma(s * square, angle, angle)
    c = tl.fma(square, 2.443315711809948e-5, -1.388731625493765e-3)
    c = tl.fma(c, square, 4.166664568298827e-2)
    c = tl.fma(c, square, -0.5)
    c = tl.fma(c, square, 1.0)
    swapped = (quarter & 1) != 0
    cosine = tl.where(swapped, s, c)
    sine = tl.where(swapped, c, s)
    cosine = tl.where(((quarter + 1) & 2) != 0, -cosine, cosine)
    sine = tl.where((quarter & 2) != 0, -sine, sine)
    return radius * cosine, radius * sine


@triton.jit
def _log(u):
    shifted = u.to(tl.uint32, bitcast=True) - 0x3F3504F3
    e = (shifted.to(tl.int32, bitcast=True) >> 23).to(tl.float32)
    f = ((shifted & 0x7FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0
    square = f * f
    p = tl.fma(f, 7.0376836292e-2, -1.1514610310e-1)
    p = tl.fma(p, f, 1.1676998740e-1)
    p = tl.fma(p, f, -1.2420140846e-1)
    p = tl.fma(p, f, 1.4249322787e-1)
    p = tl.fma(p, f, -1.6668057665e-1)
    p = tl.fma(p, f, 2.0000714765e-1)
    p = tl.fma(p, f, -2.4999993993e-1)
    p = tl.fma(p, f, 3.3333331174e-1)
    p = tl.fma(p * f, square, e * -2.12194440e-4)
    p = tl.fma(square, -0.5, p) + f
    return tl.fma(e, 0.693359375, p)
