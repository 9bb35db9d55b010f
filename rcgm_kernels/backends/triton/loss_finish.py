"""The kernel that finishes large samples: from the sums of their chunks to losses and factors of the gradient."""

from __future__ import annotations

import triton
import triton.language as tl

from rcgm_kernels.backends.triton.common import narrowed
from rcgm_kernels.backends.triton.loss_outcome import outcome_of


@triton.jit
def _sum_of_chunks(PARTIAL, row, CHUNKS, ROUNDS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sum [1] of the sums of a sample's chunks, always in the same order."""
    total = tl.zeros((1, COLUMNS), tl.float64)
    for round in range(ROUNDS):
        columns = round * COLUMNS + tl.arange(0, COLUMNS)
        total += tl.load(PARTIAL + row * CHUNKS + columns, mask=columns < CHUNKS, other=0.0)[None, :]
    return tl.sum(total, axis=1)


@triton.jit(do_not_specialize=["BATCH", "CHUNKS"])
def finish_samples(
    SCALE, WEIGHT, CLIP: tl.float64, LOSSES, SCALES, NORMALIZE_SCALE, PER_ELEMENT: tl.float64, WIDTH: tl.float64,
    SHAPE: tl.float64, COSINE: tl.float64, NORMALIZE: tl.float64, POWER: tl.float64, EPS: tl.float64, SHARE: tl.float64,
    PARTIAL, FACTORS, BATCH, CHUNKS, FORM: tl.constexpr, ROUNDS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One large sample: its loss and the factors of its gradient from the sums of its chunks."""
    row = tl.program_id(0).to(tl.int64)
    rows = row + tl.arange(0, 1)
    kinds = BATCH.to(tl.int64) * CHUNKS
    rr = _sum_of_chunks(PARTIAL, row, CHUNKS, ROUNDS, COLUMNS)
    pp, pr, yy = rr, rr, rr
    if FORM.cosine:
        pp = _sum_of_chunks(PARTIAL + kinds, row, CHUNKS, ROUNDS, COLUMNS)
        pr = _sum_of_chunks(PARTIAL + 2 * kinds, row, CHUNKS, ROUNDS, COLUMNS)
    if FORM.cosine and not FORM.channels:
        yy = _sum_of_chunks(PARTIAL + 3 * kinds, row, CHUNKS, ROUNDS, COLUMNS)
    loss, by_residual, by_pred, scale = outcome_of(
        rr, pp, pr, yy, SCALE, WEIGHT, NORMALIZE_SCALE, CLIP, rows, rows < BATCH,
        PER_ELEMENT, WIDTH, SHAPE, COSINE, NORMALIZE, POWER, EPS, SHARE, FORM,
    )  # fmt: skip
    if FORM.scaled:
        tl.store(SCALES + rows, scale.to(tl.float32))
    tl.store(LOSSES + rows, narrowed(loss, LOSSES))
    tl.store(FACTORS + rows, by_residual)
    tl.store(FACTORS + BATCH + rows, by_pred)
