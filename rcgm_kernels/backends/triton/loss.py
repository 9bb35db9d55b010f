"""residual_loss in Triton.

Samples that fit in one program's registers, alone or several together, take one launch: combine, reduce, finish, write
the gradient. Larger samples are streamed by several programs each: one pass that leaves sums and, for plain L2, whose
gradient does not wait for them, writes the gradient; a small kernel that finishes the sums; and for the other metrics
a second pass.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from rcgm_kernels.backends.triton.common import (
    BLOCK,
    COMPUTE,
    block_rows,
    load,
    load_scalars,
    narrowed,
    store,
    tile,
    warps,
)
from rcgm_kernels.inputs import LossInputs
from rcgm_kernels.options import LossOptions
from rcgm_kernels.plan import LossPlan, empty_results

WHOLE = 16384  # elements of the largest sample that one program keeps in registers
TIGHT_CLIP = 1024.0  # as in formulas.h
MOST_CHANNELS = 128  # that a program takes at once
FINISHED_AT_ONCE = 1024  # sums of chunks that a program adds up at a time


class Form(NamedTuple):
    """What a kernel is compiled for; all numbers are given at run time, so that changing them compiles nothing."""

    times: bool
    pred_first: bool
    clip: bool
    metric: str
    cosine: bool
    channels: bool
    normalize: bool
    adaptive: str
    with_gradient: bool
    scaled: bool
    tight: bool
    compute: tl.dtype

    @property
    def gradient_waits(self) -> bool:
        """Whether the factor of the gradient depends on the sums over the sample; formulas.h."""
        return self.metric != "l2" or self.cosine or self.normalize or self.adaptive != "" or not self.tight


def residual_loss(inputs: LossInputs, plan: LossPlan) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`rcgm_kernels.backends.reference.residual_loss`."""
    inputs, options = inputs if plan.dense else inputs.with_dense_samples(), plan.options
    pred, terms, *numbers = inputs
    scalars, pred_coeff, scale, weight, normalize_scale = (
        None if values is None else values.contiguous() for values in numbers
    )
    batch, size, positions = plan.batch, plan.size, plan.positions
    _, gradient, scales = empty_results(pred, plan.dtype, plan.options)
    losses = pred.new_empty(batch, dtype=plan.dtype)
    tensors = [pred, *terms] if options.pred_in_residual else terms
    read = {
        "PRED": pred,
        "PRED_STRIDE": pred.stride(0),
        "TENSORS": tuple(tensors),
        "STRIDES": tuple(tensor.stride(0) for tensor in tensors),
        "SCALARS": scalars,
        "PRED_COEFF": pred_coeff,
        "SCALE": scale,
        "WEIGHT": weight,
        "CLIP": options.clip,
    }
    finishing = {
        "LOSSES": losses,
        "SCALES": scales if plan.scaled else None,
        "NORMALIZE_SCALE": normalize_scale,
        **_numbers(options, size, positions),
        "SHARE": options.share(batch),
    }
    form = _form(plan)
    if positions:
        _launch_channels(read, finishing, gradient, batch, size, positions, form)
    else:
        _launch(read, finishing, gradient, batch, size, form)
    if options.reduction == "mean":
        losses = losses.mean()
    elif options.reduction == "sum":
        losses = losses.sum()
    return losses, gradient, scales


def _form(plan: LossPlan) -> Form:
    options = plan.options
    metric = options.metric
    name = metric.name
    if name == "barron":  # its limits told apart
        name = {2.0: "barron_l2", 0.0: "cauchy", float("-inf"): "welsch"}.get(metric.alpha, name)
    elif name == "barron_reweighting" and metric.alpha == float("-inf"):
        name = "welsch_reweighting"
    return Form(
        times=options.times,
        pred_first=options.pred_in_residual,
        clip=options.clip != float("inf"),
        metric=name,
        cosine=metric.cosine != 0,
        channels=plan.positions > 0,
        normalize=options.normalize is not None,
        adaptive="" if options.adaptive is None else options.adaptive.of,
        with_gradient=options.with_gradient,
        scaled=plan.scaled,
        tight=not plan.scaled or options.clip <= TIGHT_CLIP,
        compute=COMPUTE[plan.dtype],
    )


def _numbers(options: LossOptions, size: int, positions: int) -> dict[str, float]:
    metric, adaptive = options.metric, options.adaptive
    return {
        "PER_ELEMENT": 1 / options.divisor(size),
        "WIDTH": float(metric.c),
        "SHAPE": float(metric.alpha),
        "COSINE": float(metric.cosine) / max(positions, 1),
        "NORMALIZE": 0.0 if options.normalize is None else float(options.normalize),
        "POWER": 0.0 if adaptive is None else float(adaptive.power),
        "EPS": 0.0 if adaptive is None else float(adaptive.eps),
    }


def _launch(read: dict, finishing: dict, gradient: Tensor, batch: int, size: int, form: Form) -> None:
    if size <= _largest_whole(len(read["TENSORS"]), form):
        columns = triton.next_power_of_2(size)
        rows = block_rows(batch, columns)
        block = {"ROWS": rows, "COLUMNS": columns, "num_warps": warps(rows * columns)}
        where = {"BATCH": batch, "SIZE": size, "CHUNKS": 1}
        _whole_samples[(triton.cdiv(batch, rows),)](**read, **finishing, GRADIENT=gradient, **where, FORM=form, **block)
        return
    chunks = triton.cdiv(size, BLOCK)
    partial = torch.empty((4 if form.cosine else 1, batch, chunks), dtype=torch.float64, device=gradient.device)
    factors = torch.empty((2, batch), dtype=torch.float64, device=gradient.device)
    where = {"BATCH": batch, "SIZE": size, "CHUNKS": chunks}
    block = {"ROWS": 1, "COLUMNS": BLOCK, "num_warps": warps(BLOCK)}
    at_once = form.with_gradient and not form.gradient_waits
    _sums[(batch * chunks,)](
        **read, PER_ELEMENT=finishing["PER_ELEMENT"], SHARE=finishing["SHARE"], GRADIENT=gradient, PARTIAL=partial,
        **where, AT_ONCE=at_once, FORM=form, **block,
    )  # fmt: skip
    columns = min(triton.next_power_of_2(chunks), FINISHED_AT_ONCE)
    _finish[(batch,)](
        SCALE=read["SCALE"], WEIGHT=read["WEIGHT"], CLIP=read["CLIP"], **finishing,
        PARTIAL=partial, FACTORS=factors, BATCH=batch, CHUNKS=chunks, FORM=form,
        ROUNDS=triton.cdiv(chunks, columns), COLUMNS=columns, num_warps=warps(columns),
    )  # fmt: skip
    if form.with_gradient and not at_once:
        _gradient_of_sums[(batch * chunks,)](**read, GRADIENT=gradient, FACTORS=factors, **where, FORM=form, **block)


def _launch_channels(
    read: dict, finishing: dict, gradient: Tensor, batch: int, size: int, positions: int, form: Form
) -> None:
    """With a cosine over the channels at each position a program takes a tile of positions and walks the channels.

    A sample that one program holds takes one launch. Else the factors of each position wait in memory for the sums over
    the sample.
    """
    channels = size // positions
    rows = min(triton.next_power_of_2(channels), MOST_CHANNELS)
    columns = triton.next_power_of_2(positions)
    where = {"BATCH": batch, "POSITIONS": positions, "CHANNELS": channels}
    if channels <= rows and rows * columns <= _largest_whole(len(read["TENSORS"]), form):
        block = {"ROWS": rows, "COLUMNS": columns, "num_warps": warps(rows * columns)}
        _whole_channels[(batch,)](**read, **finishing, GRADIENT=gradient, **where, FORM=form, **block)
        return
    columns = min(columns, max(BLOCK // rows, 16))
    chunks = triton.cdiv(positions, columns)
    partial = torch.empty((3, batch, chunks), dtype=torch.float64, device=gradient.device)
    factors = torch.empty((2, batch), dtype=torch.float64, device=gradient.device)
    each = torch.empty((2, batch, positions), dtype=finishing["LOSSES"].dtype, device=gradient.device)
    block = {"CHUNKS": chunks, "ROWS": rows, "COLUMNS": columns, "num_warps": warps(rows * columns)}
    _sums_of_channels[(batch * chunks,)](**read, PARTIAL=partial, EACH=each, **where, FORM=form, **block)
    finishing_columns = min(triton.next_power_of_2(chunks), FINISHED_AT_ONCE)
    _finish[(batch,)](
        SCALE=read["SCALE"], WEIGHT=read["WEIGHT"], CLIP=read["CLIP"], **finishing,
        PARTIAL=partial, FACTORS=factors, BATCH=batch, CHUNKS=chunks, FORM=form,
        ROUNDS=triton.cdiv(chunks, finishing_columns), COLUMNS=finishing_columns, num_warps=warps(finishing_columns),
    )  # fmt: skip
    if form.with_gradient:
        _gradient_of_channels[(batch * chunks,)](
            **read, GRADIENT=gradient, FACTORS=factors, EACH=each, **where, FORM=form, **block
        )


def _largest_whole(tensors: int, form: Form) -> int:
    """Elements of the largest sample that the registers of one program hold, beside what is being loaded."""
    return WHOLE // ((2 if form.compute == tl.float64 else 1) * (2 if tensors > 8 else 1))


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
def _with_weight(WEIGHT, rows, row_mask, mask):
    """The masks of samples and block without the samples of weight 0, which are not read: they may hold anything."""
    if WEIGHT is not None:
        row_mask = row_mask & (load_scalars(WEIGHT, rows, row_mask) != 0)
        mask = mask & row_mask[:, None]
    return row_mask, mask


@triton.jit
def _residual(
    TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, CLIP, rows, columns, row_mask, mask, BATCH, FORM: tl.constexpr
):
    """R on a block [ROWS, COLUMNS]; 0 outside ``mask``. A tensor whose coefficient is 0 is not read."""
    count: tl.constexpr = len(TENSORS)
    dtype: tl.constexpr = FORM.compute
    first_step = tl.full(rows.shape, 0.0, tl.float64)
    if FORM.times:
        first_step = load_scalars(SCALARS, rows, row_mask)
        first_step -= load_scalars(SCALARS, rows + BATCH.to(tl.int64), row_mask)
        anchor = load(TENSORS[0], STRIDES[0], rows, columns, mask, dtype)
        value = tl.zeros(mask.shape, dtype)
    else:
        total = _coefficient(0, count, SCALARS, PRED_COEFF, first_step, rows, row_mask, BATCH, FORM)
        anchored = (total.to(dtype) != 0)[:, None]
        for k in tl.static_range(1, count):
            total += _coefficient(k, count, SCALARS, PRED_COEFF, first_step, rows, row_mask, BATCH, FORM)
        anchor = load(TENSORS[0], STRIDES[0], rows, columns, mask & anchored, dtype)
        total = total.to(dtype)[:, None]
        value = tl.where(anchored & (total != 0), total * anchor, 0.0)
    for k in tl.static_range(1, count):
        coeff = _coefficient(k, count, SCALARS, PRED_COEFF, first_step, rows, row_mask, BATCH, FORM)
        coeff = coeff.to(dtype)[:, None]
        used = coeff != 0
        term = load(TENSORS[k], STRIDES[k], rows, columns, mask & used, dtype)
        value += tl.where(used, coeff * (term - anchor), 0.0)
    if FORM.clip:  # comparisons that NaN fails, so that it stays
        clip = tl.full((1, 1), CLIP, dtype)
        value = tl.where(value < -clip, -clip, tl.where(value > clip, clip, value))
    if SCALE is not None:
        value = load_scalars(SCALE, rows, row_mask).to(dtype)[:, None] * value
    return tl.where(mask, value, 0.0)


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
def _cosine(rr, pp, pr, yy):
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
def _outcome(
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
        cosine, cosine_by_residual, cosine_by_pred, _ = _cosine(rr, pp, pr, yy)
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
def _row_sums(values):
    """Sums over columns, in float64 but for groups of neighbours, which a thread adds up in the compute dtype.

    Where float64 is slow its conversions would cost more than the memory traffic.
    """
    group: tl.constexpr = 8 if values.shape[1] >= 8 else values.shape[1]
    grouped = tl.reshape(values, (values.shape[0], values.shape[1] // group, group))
    return tl.sum(tl.sum(grouped, axis=2).to(tl.float64), axis=1)


@triton.jit
def _block_sums(residual, pred, FORM: tl.constexpr):
    rr = _row_sums(residual * residual)
    pp, pr, yy = rr, rr, rr
    if FORM.cosine:
        pp, pr = _row_sums(pred * pred), _row_sums(pred * residual)
        yy = _row_sums((pred - residual) * (pred - residual))
    return rr, pp, pr, yy


@triton.jit(do_not_specialize=["BATCH", "CHUNKS"])
def _whole_samples(
    PRED, PRED_STRIDE, TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, WEIGHT, CLIP: tl.float64,
    LOSSES, SCALES, NORMALIZE_SCALE, PER_ELEMENT: tl.float64, WIDTH: tl.float64, SHAPE: tl.float64,
    COSINE: tl.float64, NORMALIZE: tl.float64, POWER: tl.float64, EPS: tl.float64, SHARE: tl.float64,
    GRADIENT, BATCH, SIZE, CHUNKS, FORM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """ROWS whole samples a program."""
    rows, columns, row_mask, mask = tile(BATCH, SIZE, CHUNKS, ROWS, COLUMNS)
    used, inside = _with_weight(WEIGHT, rows, row_mask, mask)
    residual = _residual(TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, CLIP, rows, columns, used, inside, BATCH, FORM)
    pred = residual
    if FORM.cosine:
        pred = load(PRED, PRED_STRIDE, rows, columns, inside, FORM.compute)
    rr, pp, pr, yy = _block_sums(residual, pred, FORM)
    loss, by_residual, by_pred, scale = _outcome(
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
def _sums(
    PRED, PRED_STRIDE, TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, WEIGHT, CLIP: tl.float64,
    PER_ELEMENT: tl.float64, SHARE: tl.float64,
    GRADIENT, PARTIAL, BATCH, SIZE, CHUNKS, AT_ONCE: tl.constexpr,
    FORM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sums of one chunk of a large sample; AT_ONCE writes the gradient too, whose factor does not depend on them."""
    rows, columns, row_mask, mask = tile(BATCH, SIZE, CHUNKS, ROWS, COLUMNS)
    used, inside = _with_weight(WEIGHT, rows, row_mask, mask)
    residual = _residual(TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, CLIP, rows, columns, used, inside, BATCH, FORM)
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
        _, by_residual, _, _ = _outcome(
            rr, pp, pr, yy, SCALE, WEIGHT, None, CLIP, rows, row_mask,
            PER_ELEMENT, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, SHARE, FORM,
        )  # fmt: skip
        store(GRADIENT, SIZE, rows, columns, mask, by_residual.to(FORM.compute)[:, None] * residual)


@triton.jit
def _sum_of_chunks(PARTIAL, row, CHUNKS, ROUNDS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sum [1] of the sums of a sample's chunks, always in the same order."""
    total = tl.zeros((1, COLUMNS), tl.float64)
    for round in range(ROUNDS):
        columns = round * COLUMNS + tl.arange(0, COLUMNS)
        total += tl.load(PARTIAL + row * CHUNKS + columns, mask=columns < CHUNKS, other=0.0)[None, :]
    return tl.sum(total, axis=1)


@triton.jit(do_not_specialize=["BATCH", "CHUNKS"])
def _finish(
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
    loss, by_residual, by_pred, scale = _outcome(
        rr, pp, pr, yy, SCALE, WEIGHT, NORMALIZE_SCALE, CLIP, rows, rows < BATCH,
        PER_ELEMENT, WIDTH, SHAPE, COSINE, NORMALIZE, POWER, EPS, SHARE, FORM,
    )  # fmt: skip
    if FORM.scaled:
        tl.store(SCALES + rows, scale.to(tl.float32))
    tl.store(LOSSES + rows, narrowed(loss, LOSSES))
    tl.store(FACTORS + rows, by_residual)
    tl.store(FACTORS + BATCH + rows, by_pred)


@triton.jit(do_not_specialize=["BATCH", "CHUNKS"])
def _gradient_of_sums(
    PRED, PRED_STRIDE, TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, WEIGHT, CLIP: tl.float64,
    GRADIENT, FACTORS, BATCH, SIZE, CHUNKS, FORM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Second pass over a large sample whose gradient had to wait for its sums."""
    rows, columns, row_mask, mask = tile(BATCH, SIZE, CHUNKS, ROWS, COLUMNS)
    used, inside = _with_weight(WEIGHT, rows, row_mask, mask)
    residual = _residual(TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, CLIP, rows, columns, used, inside, BATCH, FORM)
    gradient = load_scalars(FACTORS, rows, row_mask).to(FORM.compute)[:, None] * residual
    if FORM.cosine:
        pred = load(PRED, PRED_STRIDE, rows, columns, inside, FORM.compute)
        gradient += load_scalars(FACTORS + BATCH, rows, row_mask).to(FORM.compute)[:, None] * pred
    store(GRADIENT, SIZE, rows, columns, mask, gradient)


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
    used, inside = _with_weight(WEIGHT, rows, row_mask, mask)
    columns = channels[:, None] * POSITIONS.to(tl.int64) + at[None, :]
    residual = _residual(TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, CLIP, rows, columns, used, inside, BATCH, FORM)
    return residual, load(PRED, PRED_STRIDE, rows, columns, inside, FORM.compute), rows, columns, mask


@triton.jit
def _cosine_of_positions(rr, pp, pr, yy, at, POSITIONS):
    """Factors of each position, and over the positions ``at`` the sums [1], float64, of rr, 1 - cos and steepness."""
    cosine, by_residual, by_pred, steep = _cosine(rr, pp, pr, yy)
    there = at < POSITIONS
    return (
        by_residual, by_pred, _row_sums(rr[None, :]), _row_sums(tl.where(there, cosine, 0.0)[None, :]),
        _row_sums(tl.where(there, steep, 0.0)[None, :]),
    )  # fmt: skip


@triton.jit(do_not_specialize=["BATCH", "CHANNELS"])
def _whole_channels(
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
    loss, by_residual, by_cosine, scale = _outcome(
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
def _sums_of_channels(
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
def _gradient_of_channels(
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
