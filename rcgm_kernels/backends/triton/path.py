"""interpolate and advance in Triton: one launch each."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rcgm_kernels.backends.triton.common import COMPUTE, block_for, narrowed, warps, widened
from rcgm_kernels.layout import compute_dtype, dense_samples, sample_size


def interpolate(x: Tensor, z: Tensor, alpha: Tensor, gamma: Tensor, out_dtype: torch.dtype) -> Tensor:
    """See :func:`rcgm_kernels.backends.reference.interpolate`."""
    x, z = dense_samples(x.detach()), dense_samples(z.detach())
    batch, size = x.shape[0], sample_size(x)
    out = torch.empty((alpha.shape[0], *x.shape), dtype=out_dtype, device=x.device)
    if out.numel():
        columns = block_for(size)
        chunks = triton.cdiv(size, columns)
        _interpolate[(batch * chunks,)](
            x, z, alpha.contiguous(), gamma.contiguous(), out, batch, size, chunks, x.stride(0), z.stride(0),
            alpha.shape[0], COMPUTE[compute_dtype(x, z)], columns, num_warps=warps(columns),
        )  # fmt: skip
    return out


def advance_(out: Tensor, x: Tensor, velocity: Tensor, t: Tensor, r: Tensor) -> None:
    """See :func:`rcgm_kernels.backends.reference.advance_`."""
    x, velocity = dense_samples(x), dense_samples(velocity)
    target = dense_samples(out)  # a copy where the samples of `out` are not dense
    batch, size = x.shape[0], sample_size(x)
    if x.numel():
        columns = block_for(size)
        chunks = triton.cdiv(size, columns)
        _advance[(batch * chunks,)](
            target, x, velocity, t.contiguous(), r.contiguous(), size, chunks, target.stride(0), x.stride(0),
            velocity.stride(0), COMPUTE[compute_dtype(x, velocity)], columns, num_warps=warps(columns),
        )  # fmt: skip
    if target is not out:
        out.copy_(target)


@triton.jit
def _interpolate(
    X, Z, ALPHA, GAMMA, OUT, BATCH, SIZE, CHUNKS, X_STRIDE, Z_STRIDE,
    POINTS: tl.constexpr, COMPUTE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    row = program // CHUNKS
    columns = (program % CHUNKS) * COLUMNS + tl.arange(0, COLUMNS)
    mask = columns < SIZE
    x = widened(tl.load(X + row * X_STRIDE + columns, mask=mask, other=0.0), COMPUTE)
    z = widened(tl.load(Z + row * Z_STRIDE + columns, mask=mask, other=0.0), COMPUTE)
    for point in tl.static_range(POINTS):
        at = row + point * BATCH
        value = tl.load(ALPHA + at).to(COMPUTE) * z + tl.load(GAMMA + at).to(COMPUTE) * x
        tl.store(OUT + at * SIZE + columns, narrowed(value, OUT), mask=mask)


@triton.jit
def _advance(
    OUT, X, VELOCITY, T, R, SIZE, CHUNKS, OUT_STRIDE, X_STRIDE, VELOCITY_STRIDE,
    COMPUTE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    row = program // CHUNKS
    columns = (program % CHUNKS) * COLUMNS + tl.arange(0, COLUMNS)
    mask = columns < SIZE
    step = (tl.load(T + row).to(tl.float64) - tl.load(R + row).to(tl.float64)).to(COMPUTE)
    x = widened(tl.load(X + row * X_STRIDE + columns, mask=mask, other=0.0), COMPUTE)
    velocity = widened(tl.load(VELOCITY + row * VELOCITY_STRIDE + columns, mask=mask, other=0.0), COMPUTE)
    tl.store(OUT + row * OUT_STRIDE + columns, narrowed(x - step * velocity, OUT), mask=mask)
