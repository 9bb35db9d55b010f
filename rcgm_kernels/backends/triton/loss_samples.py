"""The kernels of a loss whose sums are over whole samples."""

from __future__ import annotations

import triton
import triton.language as tl

from rcgm_kernels.backends.triton.common import load, load_scalars, narrowed, store, tile
from rcgm_kernels.backends.triton.loss_outcome import outcome_of, row_sums
from rcgm_kernels.backends.triton.loss_residual import residual_block, with_weight


@triton.jit
def _block_sums(residual, pred, FORM: tl.constexpr):
    rr = row_sums(residual * residual)
    pp, pr, yy = rr, rr, rr
    if FORM.cosine:
        pp, pr = row_sums(pred * pred), row_sums(pred * residual)
        yy = row_sums((pred - residual) * (pred - residual))
    return rr, pp, pr, yy


@triton.jit(do_not_specialize=["BATCH", "CHUNKS"])
def whole_samples(
    PRED, PRED_STRIDE, TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, WEIGHT, CLIP: tl.float64,
    LOSSES, SCALES, NORMALIZE_SCALE, PER_ELEMENT: tl.float64, WIDTH: tl.float64, SHAPE: tl.float64,
    COSINE: tl.float64, NORMALIZE: tl.float64, POWER: tl.float64, EPS: tl.float64, SHARE: tl.float64,
    GRADIENT, BATCH, SIZE, CHUNKS, FORM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """ROWS whole samples a program."""
    rows, columns, row_mask, mask = tile(BATCH, SIZE, CHUNKS, ROWS, COLUMNS)
    used, inside = with_weight(WEIGHT, rows, row_mask, mask)
    residual = residual_block(
        TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, CLIP, rows, columns, used, inside, BATCH, FORM
    )
    pred = residual
    if FORM.cosine:
        pred = load(PRED, PRED_STRIDE, rows, columns, inside, FORM.compute)
    rr, pp, pr, yy = _block_sums(residual, pred, FORM)
    loss, by_residual, by_pred, scale = outcome_of(
        rr, pp, pr, yy, SCALE, WEIGHT, NORMALIZE_SCALE, CLIP, rows, row_mask,
        PER_ELEMENT, WIDTH, SHAPE, COSINE, NORMALIZE, POWER, EPS, SHARE, FORM,
    )  # fmt: skip
    tl.store(LOSSES + rows, narrowed(loss, LOSSES), mask=row_mask)
    if FORM.scaled:
        tl.store(SCALES + rows, scale.to(tl.float32), mask=row_mask)
    if FORM.with_gradient:
        gradient = by_residual.to(FORM.compute)[:, None] * residual
        if FORM.cosine:
            gradient += by_pred.to(FORM.compute)[:, None] * pred
        store(GRADIENT, SIZE, rows, columns, mask, gradient)


@triton.jit(do_not_specialize=["BATCH", "CHUNKS"])
def sums_of_samples(
    PRED, PRED_STRIDE, TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, WEIGHT, CLIP: tl.float64,
    PER_ELEMENT: tl.float64, SHARE: tl.float64,
    GRADIENT, PARTIAL, BATCH, SIZE, CHUNKS, AT_ONCE: tl.constexpr,
    FORM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sums of one chunk of a large sample; AT_ONCE writes the gradient too, whose factor does not depend on them."""
    rows, columns, row_mask, mask = tile(BATCH, SIZE, CHUNKS, ROWS, COLUMNS)
    used, inside = with_weight(WEIGHT, rows, row_mask, mask)
    residual = residual_block(
        TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, CLIP, rows, columns, used, inside, BATCH, FORM
    )
    pred = residual
    if FORM.cosine:
        pred = load(PRED, PRED_STRIDE, rows, columns, inside, FORM.compute)
    rr, pp, pr, yy = _block_sums(residual, pred, FORM)
    at = PARTIAL + tl.program_id(0) + tl.arange(0, ROWS)
    kinds = BATCH.to(tl.int64) * CHUNKS
    tl.store(at, rr)
    if FORM.cosine:
        tl.store(at + kinds, pp)
        tl.store(at + 2 * kinds, pr)
        tl.store(at + 3 * kinds, yy)
    if AT_ONCE:
        _, by_residual, _, _ = outcome_of(
            rr, pp, pr, yy, SCALE, WEIGHT, None, CLIP, rows, row_mask,
            PER_ELEMENT, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, SHARE, FORM,
        )  # fmt: skip
        store(GRADIENT, SIZE, rows, columns, mask, by_residual.to(FORM.compute)[:, None] * residual)


@triton.jit(do_not_specialize=["BATCH", "CHUNKS"])
def gradient_of_samples(
    PRED, PRED_STRIDE, TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, WEIGHT, CLIP: tl.float64,
    GRADIENT, FACTORS, BATCH, SIZE, CHUNKS, FORM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Second pass over a large sample whose gradient had to wait for its sums."""
    rows, columns, row_mask, mask = tile(BATCH, SIZE, CHUNKS, ROWS, COLUMNS)
    used, inside = with_weight(WEIGHT, rows, row_mask, mask)
    residual = residual_block(
        TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, CLIP, rows, columns, used, inside, BATCH, FORM
    )
    gradient = load_scalars(FACTORS, rows, row_mask).to(FORM.compute)[:, None] * residual
    if FORM.cosine:
        pred = load(PRED, PRED_STRIDE, rows, columns, inside, FORM.compute)
        gradient += load_scalars(FACTORS + BATCH, rows, row_mask).to(FORM.compute)[:, None] * pred
    store(GRADIENT, SIZE, rows, columns, mask, gradient)
