"""The kernels of a loss with a cosine over the channels at each position."""

from __future__ import annotations

import triton
import triton.language as tl

from rcgm_kernels.backends.triton.common import load, narrowed, store
from rcgm_kernels.backends.triton.loss_outcome import cosine_of, outcome_of, row_sums
from rcgm_kernels.backends.triton.loss_residual import residual_block, with_weight


@triton.jit
def _channel_block(
    PRED, PRED_STRIDE, TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, WEIGHT, CLIP,
    sample, first, at, BATCH, POSITIONS, CHANNELS, FORM: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """R and the prediction [ROWS, COLUMNS] on channels from ``first`` at the positions ``at`` of a sample."""
    channels = first + tl.arange(0, ROWS)
    mask = (channels < CHANNELS)[:, None] & (at < POSITIONS)[None, :]
    rows = sample + tl.zeros((ROWS,), tl.int64)
    row_mask = rows < BATCH
    used, inside = with_weight(WEIGHT, rows, row_mask, mask)
    columns = channels[:, None] * POSITIONS.to(tl.int64) + at[None, :]
    residual = residual_block(
        TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, CLIP, rows, columns, used, inside, BATCH, FORM
    )
    return residual, load(PRED, PRED_STRIDE, rows, columns, inside, FORM.compute), rows, columns, mask


@triton.jit
def _cosine_of_positions(rr, pp, pr, yy, at, POSITIONS):
    """Factors of each position, and over the positions ``at`` the sums [1], float64, of rr, 1 - cos and steepness."""
    cosine, by_residual, by_pred, steep = cosine_of(rr, pp, pr, yy)
    there = at < POSITIONS
    return (
        by_residual, by_pred, row_sums(rr[None, :]), row_sums(tl.where(there, cosine, 0.0)[None, :]),
        row_sums(tl.where(there, steep, 0.0)[None, :]),
    )  # fmt: skip


@triton.jit(do_not_specialize=["BATCH", "CHANNELS"])
def whole_channels(
    PRED, PRED_STRIDE, TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, WEIGHT, CLIP: tl.float64,
    LOSSES, SCALES, NORMALIZE_SCALE, PER_ELEMENT: tl.float64, WIDTH: tl.float64, SHAPE: tl.float64,
    COSINE: tl.float64, NORMALIZE: tl.float64, POWER: tl.float64, EPS: tl.float64, SHARE: tl.float64,
    GRADIENT, BATCH, POSITIONS, CHANNELS, FORM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A whole sample a program, all its channels and positions."""
    sample, at = tl.program_id(0).to(tl.int64), tl.arange(0, COLUMNS)
    residual, pred, rows, columns, mask = _channel_block(
        PRED, PRED_STRIDE, TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, WEIGHT, CLIP,
        sample, 0, at, BATCH, POSITIONS, CHANNELS, FORM, ROWS,
    )  # fmt: skip
    target = pred - residual
    rr, pp = tl.sum(residual * residual, axis=0), tl.sum(pred * pred, axis=0)
    pr, yy = tl.sum(pred * residual, axis=0), tl.sum(target * target, axis=0)
    each_by_residual, each_by_pred, squares, cosine, steep = _cosine_of_positions(rr, pp, pr, yy, at, POSITIONS)
    one = sample + tl.arange(0, 1)
    loss, by_residual, by_cosine, scale = outcome_of(
        squares, cosine, steep, squares, SCALE, WEIGHT, NORMALIZE_SCALE, CLIP, one, one < BATCH,
        PER_ELEMENT, WIDTH, SHAPE, COSINE, NORMALIZE, POWER, EPS, SHARE, FORM,
    )  # fmt: skip
    tl.store(LOSSES + one, narrowed(loss, LOSSES))
    if FORM.scaled:
        tl.store(SCALES + one, scale.to(tl.float32))
    if FORM.with_gradient:
        by_residual, by_cosine = by_residual.to(FORM.compute), by_cosine.to(FORM.compute)
        gradient = (by_residual + by_cosine * each_by_residual)[None, :] * residual
        gradient += (by_cosine * each_by_pred)[None, :] * pred
        store(GRADIENT, CHANNELS.to(tl.int64) * POSITIONS, rows, columns, mask, gradient)


@triton.jit(do_not_specialize=["BATCH", "CHUNKS", "CHANNELS"])
def sums_of_channels(
    PRED, PRED_STRIDE, TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, WEIGHT, CLIP: tl.float64,
    PARTIAL, EACH, BATCH, POSITIONS, CHANNELS, CHUNKS,
    FORM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Of a tile of positions: the factors of each, and the sums over them."""
    program = tl.program_id(0).to(tl.int64)
    sample, at = program // CHUNKS, (program % CHUNKS) * COLUMNS + tl.arange(0, COLUMNS)
    rr = tl.zeros((COLUMNS,), FORM.compute)
    pp, pr, yy = rr, rr, rr
    for first in range(0, CHANNELS, ROWS):
        residual, pred, _, _, _ = _channel_block(
            PRED, PRED_STRIDE, TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, WEIGHT, CLIP,
            sample, first, at, BATCH, POSITIONS, CHANNELS, FORM, ROWS,
        )  # fmt: skip
        target = pred - residual
        rr += tl.sum(residual * residual, axis=0)
        pp += tl.sum(pred * pred, axis=0)
        pr += tl.sum(pred * residual, axis=0)
        yy += tl.sum(target * target, axis=0)
    by_residual, by_pred, squares, cosine, steep = _cosine_of_positions(rr, pp, pr, yy, at, POSITIONS)
    kinds = BATCH.to(tl.int64) * CHUNKS
    to = PARTIAL + program + tl.arange(0, 1)
    tl.store(to, squares)
    tl.store(to + kinds, cosine)
    tl.store(to + 2 * kinds, steep)
    each = EACH + sample * POSITIONS + at
    tl.store(each, by_residual, mask=at < POSITIONS)
    tl.store(each + BATCH.to(tl.int64) * POSITIONS, by_pred, mask=at < POSITIONS)


@triton.jit(do_not_specialize=["BATCH", "CHUNKS", "CHANNELS"])
def gradient_of_channels(
    PRED, PRED_STRIDE, TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, WEIGHT, CLIP: tl.float64,
    GRADIENT, FACTORS, EACH, BATCH, POSITIONS, CHANNELS, CHUNKS,
    FORM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile of positions from the factors of the sample and of each position."""
    program = tl.program_id(0).to(tl.int64)
    sample, at = program // CHUNKS, (program % CHUNKS) * COLUMNS + tl.arange(0, COLUMNS)
    each = EACH + sample * POSITIONS + at
    by_cosine = tl.load(FACTORS + BATCH + sample).to(FORM.compute)
    by_residual = by_cosine * tl.load(each, mask=at < POSITIONS, other=0.0)
    by_residual += tl.load(FACTORS + sample).to(FORM.compute)
    by_pred = by_cosine * tl.load(each + BATCH.to(tl.int64) * POSITIONS, mask=at < POSITIONS, other=0.0)
    for first in range(0, CHANNELS, ROWS):
        residual, pred, rows, columns, mask = _channel_block(
            PRED, PRED_STRIDE, TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, WEIGHT, CLIP,
            sample, first, at, BATCH, POSITIONS, CHANNELS, FORM, ROWS,
        )  # fmt: skip
        gradient = by_residual[None, :] * residual + by_pred[None, :] * pred
        store(GRADIENT, CHANNELS.to(tl.int64) * POSITIONS, rows, columns, mask, gradient)
