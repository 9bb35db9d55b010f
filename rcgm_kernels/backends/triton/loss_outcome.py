"""From the sums over a sample to its loss and the factors of its gradient: formulas.h in Triton."""

from __future__ import annotations

import triton
import triton.language as tl

from rcgm_kernels.backends.triton.common import load_scalars


@triton.jit
def _log1p(x):
    """log(1 + x) for x >= 0, exact where x is small (Kahan): Triton has no such function on every device."""
    u = 1 + x
    rounded = u - 1
    value = tl.log(u)
    plain = (rounded == 0) | (rounded == x)
    value = tl.where(plain, value, value * x / tl.where(plain, 1.0, rounded))
    return tl.where(rounded == 0, x, value)


@triton.jit
def _expm1(x):
    """exp(x) - 1, exact where x is small (Kahan)."""
    u = tl.exp(x)
    plain = (u == 1) | (u <= 0) | (u > 1e300)
    value = (u - 1) * x / tl.log(tl.where(plain, 2.0, u))
    return tl.where(u == 1, x, tl.where(plain, u - 1, value))


@triton.jit
def _metric(m, WIDTH, SHAPE, FORM: tl.constexpr):
    """rho(m) and its derivative, float64; formulas.h."""
    if FORM.metric == "l2":
        value, slope = m, tl.full(m.shape, 1.0, tl.float64)
    elif FORM.metric == "pseudo_huber":
        root = tl.sqrt(m + WIDTH * WIDTH)
        zero = root == 0
        safe = tl.where(zero, 1.0, root)
        value, slope = tl.where(zero, 0.0, m / (safe + WIDTH)), tl.where(zero, 0.0, 0.5 / safe)
    elif FORM.metric == "barron_reweighting" or FORM.metric == "welsch_reweighting":
        x = m / (tl.full(m.shape, WIDTH, tl.float64) * WIDTH + 1e-8)
        if FORM.metric == "welsch_reweighting":
            slope = tl.exp(-0.5 * x) / WIDTH
        else:
            shape = tl.full(m.shape, SHAPE, tl.float64)
            beta = tl.where(shape == 2, 1.0, tl.abs(shape - 2))  # to the power of 0
            slope = tl.exp((0.5 * shape - 1) * _log1p(x / beta)) / WIDTH
        value = slope * m
    else:
        half = tl.full(m.shape, 0.5, tl.float64) / (WIDTH * WIDTH)
        x = 2 * half * m
        if FORM.metric == "barron_l2":
            value, slope = 0.5 * x, half
        elif FORM.metric == "cauchy":
            value, slope = _log1p(0.5 * x), half / (1 + 0.5 * x)
        elif FORM.metric == "welsch":
            value, slope = -_expm1(-0.5 * x), half * tl.exp(-0.5 * x)
        else:
            shape = tl.full(m.shape, SHAPE, tl.float64)
            beta = tl.abs(shape - 2)
            log_base = _log1p(x / beta)
            value = beta / shape * _expm1(0.5 * shape * log_base)
            slope = half * tl.exp((0.5 * shape - 1) * log_base)
    return value, slope


@triton.jit
def cosine_of(rr, pp, pr, yy):
    """1 - cos of p and y = p - R, the factors of R and p in its gradient, and a bound of its square; formulas.h."""
    p, y = tl.sqrt(pp), tl.sqrt(yy)
    undirected = (p < 1e-8) | (y < 1e-8)  # a zero vector has no direction: the worst value, no gradient
    product = tl.where(undirected, 1.0, p * y)
    apart = (2 * pr - rr) / tl.where(undirected, 1.0, p + y)
    across = rr - apart * apart
    across = tl.where(across < 0, 0.0, across)
    square = tl.where(undirected, 1.0, pp)
    value = tl.where(undirected, 1.0, across / (2 * product))
    by_residual = tl.where(undirected, 0.0, 1 / product)
    by_pred = tl.where(undirected, 0.0, -(pr / square) / product)
    steep = tl.where(undirected, 0.0, tl.where(rr < yy, rr / tl.where(undirected, 1.0, yy), 1.0) / square)
    return value, by_residual, by_pred, steep


@triton.jit
def _storage_scale(bound):
    """The power of two that brings ``bound`` below 2^15, float64; formulas.h."""
    exponent = ((bound.to(tl.int64, bitcast=True) >> 52) & 2047) - 1022
    power = tl.minimum(tl.maximum(15 - exponent, -100), 100)
    return tl.where(bound < float("inf"), ((power + 1023) << 52).to(tl.float64, bitcast=True), 1.0)


@triton.jit
def outcome_of(
    rr, pp, pr, yy, SCALE, WEIGHT, NORMALIZE_SCALE, CLIP, rows, row_mask,
    PER_ELEMENT, WIDTH, SHAPE, COSINE, NORMALIZE, POWER, EPS, SHARE, FORM: tl.constexpr,
):  # fmt: skip
    """Of each sample, float64 [ROWS]: loss, factors of R and of the prediction in its gradient, storage scale.

    formulas.h.
    """
    weight = tl.full(rr.shape, 1.0, tl.float64)
    if WEIGHT is not None:
        weight = load_scalars(WEIGHT, rows, row_mask)
    left_out = weight == 0
    shrink = tl.full(rr.shape, 1.0, tl.float64)
    length = tl.sqrt(rr)
    if FORM.normalize:
        if NORMALIZE_SCALE is not None:
            shrink = load_scalars(NORMALIZE_SCALE, rows, row_mask)
        zero = length + NORMALIZE == 0
        shrink = tl.where(zero, 0.0, shrink / tl.where(zero, 1.0, length + NORMALIZE))
        rr = rr * shrink * shrink
    loss, slope = _metric(rr * PER_ELEMENT, WIDTH, SHAPE, FORM)
    by_residual = slope * (2 * PER_ELEMENT) * shrink
    by_pred = tl.zeros(rr.shape, tl.float64)
    if FORM.channels:
        loss += COSINE * pp
        by_pred += COSINE
        steep = COSINE * tl.sqrt(pr)
    elif FORM.cosine:
        cosine, cosine_by_residual, cosine_by_pred, _ = cosine_of(rr, pp, pr, yy)
        loss += COSINE * cosine
        by_residual += COSINE * cosine_by_residual
        by_pred = COSINE * cosine_by_pred
        steep = tl.abs(by_pred) * tl.sqrt(pp)
    if FORM.adaptive == "loss":
        weight = weight * tl.exp(-POWER * tl.log(loss + EPS))
    elif FORM.adaptive == "residual":
        weight = weight * tl.exp(-POWER * tl.log(rr + EPS))
    loss = tl.where(left_out, 0.0, loss * weight)
    weight = weight * SHARE
    scale = tl.full(rr.shape, 1.0, tl.float64)
    if FORM.scaled:
        if not FORM.gradient_waits:
            length = tl.full(rr.shape, CLIP, tl.float64)
            if SCALE is not None:
                length *= tl.abs(load_scalars(SCALE, rows, row_mask))
        largest = tl.where(length > 2.0**-60, length, 2.0**-60)
        largest = tl.where(length < 2.0**128, largest, 2.0**128)
        bound = tl.abs(by_residual) * largest
        if FORM.cosine:
            bound += steep
        scale = tl.where(left_out, 1.0, _storage_scale(tl.abs(weight) * bound))
        weight = weight * scale
    return loss, tl.where(left_out, 0.0, by_residual * weight), tl.where(left_out, 0.0, by_pred * weight), scale


@triton.jit
def row_sums(values):
    """Sums over columns, in float64 but for groups of neighbours, which a thread adds up in the compute dtype.

    Where float64 is slow its conversions would cost more than the memory traffic.
    """
    group: tl.constexpr = 8 if values.shape[1] >= 8 else values.shape[1]
    grouped = tl.reshape(values, (values.shape[0], values.shape[1] // group, group))
    return tl.sum(tl.sum(grouped, axis=2).to(tl.float64), axis=1)
