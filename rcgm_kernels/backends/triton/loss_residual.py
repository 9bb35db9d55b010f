"""The residual of a fused loss on a block of samples."""

from __future__ import annotations

import triton
import triton.language as tl

from rcgm_kernels.backends.triton.common import load, load_scalars, load_stored, widened

AHEAD = tl.constexpr(4)


@triton.jit
def _coefficient(k, count, SCALARS, PRED_COEFF, first_step, rows, row_mask, BATCH, FORM: tl.constexpr):
    """Coefficient of tensor ``k`` of ``count``, float64 [ROWS]; formulas.h. With times, ``k`` is 1 or more."""
    if FORM.times:
        if k == count - 1:
            value = tl.where((first_step >= 0) & (first_step < float("inf")), -1.0, float("nan"))
        else:
            start = load_scalars(SCALARS, rows + k * BATCH.to(tl.int64), row_mask)
            length = start - load_scalars(SCALARS, rows + (k + 1) * BATCH.to(tl.int64), row_mask)
            per_step = 1 / tl.where(first_step > 0, first_step, float("nan"))
            value = tl.where((length > 0) & (length < float("inf")), -length * per_step, float("nan"))
            value = tl.where((length == 0) & (first_step >= 0), 0.0, value)
    elif FORM.pred_first and k == 0:
        if PRED_COEFF is None:
            value = tl.full(rows.shape, 1.0, tl.float64)
        else:
            value = load_scalars(PRED_COEFF, rows, row_mask)
    else:
        row = k - 1 if FORM.pred_first else k
        value = load_scalars(SCALARS, rows + row * BATCH.to(tl.int64), row_mask)
    return value


@triton.jit
def with_weight(WEIGHT, rows, row_mask, mask):
    """The masks of samples and block without the samples of weight 0, which are not read: they may hold anything."""
    if WEIGHT is not None:
        row_mask = row_mask & (load_scalars(WEIGHT, rows, row_mask) != 0)
        mask = mask & row_mask[:, None]
    return row_mask, mask


@triton.jit
def residual_block(
    TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, CLIP, rows, columns, row_mask, mask, BATCH, FORM: tl.constexpr
):
    """R on a block [ROWS, COLUMNS]; 0 outside ``mask``. A tensor whose coefficient is 0 is not read.

    The coefficients come first: which samples are read depends on them. Then AHEAD terms are asked for before the first
    of them is used.
    """
    count: tl.constexpr = len(TENSORS)
    dtype: tl.constexpr = FORM.compute
    first_step = tl.full(rows.shape, 0.0, tl.float64)
    if FORM.times:
        first_step = load_scalars(SCALARS, rows, row_mask)
        first_step -= load_scalars(SCALARS, rows + BATCH.to(tl.int64), row_mask)
    coeffs = ()
    for k in tl.static_range(1, count):
        coeffs += (_coefficient(k, count, SCALARS, PRED_COEFF, first_step, rows, row_mask, BATCH, FORM),)
    if FORM.times:
        anchor = load(TENSORS[0], STRIDES[0], rows, columns, mask, dtype)
        value = tl.zeros(mask.shape, dtype)
    else:
        total = _coefficient(0, count, SCALARS, PRED_COEFF, first_step, rows, row_mask, BATCH, FORM)
        anchored = (total.to(dtype) != 0)[:, None]
        for k in tl.static_range(1, count):
            total += coeffs[k - 1]
        anchor = load(TENSORS[0], STRIDES[0], rows, columns, mask & anchored, dtype)
        total = total.to(dtype)[:, None]
        value = tl.where(anchored & (total != 0), total * anchor, 0.0)
    for first in tl.static_range(1, count, AHEAD):
        terms = ()
        for k in tl.static_range(first, min(first + AHEAD, count)):
            used = coeffs[k - 1].to(dtype)[:, None] != 0
            terms += (load_stored(TENSORS[k], STRIDES[k], rows, columns, mask & used),)
        for k in tl.static_range(first, min(first + AHEAD, count)):
            coeff = coeffs[k - 1].to(dtype)[:, None]
            value += tl.where(coeff != 0, coeff * (widened(terms[k - first], dtype) - anchor), 0.0)
    if FORM.clip:  # comparisons that NaN fails, so that it stays
        clip = tl.full((1, 1), CLIP, dtype)
        value = tl.where(value < -clip, -clip, tl.where(value > clip, clip, value))
    if SCALE is not None:
        value = load_scalars(SCALE, rows, row_mask).to(dtype)[:, None] * value
    return tl.where(mask, value, 0.0)
