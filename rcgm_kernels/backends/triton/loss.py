"""residual_loss in Triton.

Samples that fit in one program's registers, alone or several together, take one launch: combine, reduce, finish, write
the gradient. Larger samples are streamed by several programs each: one pass that leaves sums and, for plain L2, whose
gradient does not wait for them, writes the gradient; a small kernel that finishes the sums; and for the other metrics
a second pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from rcgm_kernels.backends.triton.common import BLOCK, COMPUTE, block_for, narrowed, warps, widened
from rcgm_kernels.layout import compute_dtype, dense_samples, sample_size
from rcgm_kernels.options import LossOptions

WHOLE = 16384  # elements of the largest sample that one program keeps in registers


def residual_loss(
    pred: Tensor,
    terms: Sequence[Tensor],
    scalars: Tensor,
    pred_coeff: Tensor | None,
    scale: Tensor | None,
    weight: Tensor | None,
    options: LossOptions,
    storage_scale: float,
) -> tuple[Tensor, Tensor]:
    """See :func:`rcgm_kernels.backends.reference.residual_loss`."""
    pred = dense_samples(pred.detach())
    terms = [dense_samples(term) for term in terms]
    batch, size, dtype = pred.shape[0], sample_size(pred), compute_dtype(pred, *terms)
    losses = torch.empty(batch, dtype=dtype, device=pred.device)
    gradient = torch.empty(pred.shape if options.with_gradient else 0, dtype=pred.dtype, device=pred.device)
    if batch and size:
        tensors = [pred, *terms] if options.pred_in_residual else terms
        arguments = {
            "PRED": pred,
            "TENSORS": tuple(tensors),
            "PRED_STRIDE": pred.stride(0),
            "STRIDES": tuple(tensor.stride(0) for tensor in tensors),
            "SCALARS": scalars.contiguous(),
            "PRED_COEFF": None if pred_coeff is None else pred_coeff.contiguous(),
            "SCALE": None if scale is None else scale.contiguous(),
            "WEIGHT": None if weight is None else weight.contiguous(),
            "LOSSES": losses,
            "GRADIENT": gradient,
            "BATCH": batch,
            "SIZE": size,
        }
        _launch(arguments, options, storage_scale, COMPUTE[dtype])
    elif batch:
        losses.fill_(torch.nan)
    if options.reduction == "mean":
        losses = losses.mean()
    elif options.reduction == "sum":
        losses = losses.sum()
    return losses, gradient


def _launch(arguments: dict, options: LossOptions, storage_scale: float, compute: tl.dtype) -> None:
    batch, size = arguments["BATCH"], arguments["SIZE"]
    metric, adaptive = options.metric, options.adaptive
    combining = {
        "TIMES": options.times,
        "PRED_FIRST": options.pred_in_residual,
        "HAS_CLIP": options.clip != float("inf"),
        "CLIP": options.clip if options.clip != float("inf") else 0.0,
        "COSINE": metric.cosine,
        "COMPUTE": compute,
    }
    finishing = {
        "METRIC": _kind(metric.name, metric.alpha),
        "C": metric.c,
        "ALPHA": metric.alpha if metric.alpha > float("-inf") else 0.0,
        "NORMALIZE": -1.0 if options.normalize is None else options.normalize,
        "POWER": 0.0 if adaptive is None else adaptive.power,
        "EPS": 0.0 if adaptive is None else adaptive.eps,
        "MEAN": options.reduction == "mean",
        "STORAGE_SCALE": storage_scale,
    }
    gradient = {"WITH_GRADIENT": options.with_gradient}
    if size <= WHOLE:
        columns = block_for(size, WHOLE)
        rows = min(max(1, BLOCK // columns), triton.next_power_of_2(batch))
        block = {"ROWS": rows, "COLUMNS": columns, "num_warps": warps(rows * columns)}
        _whole_samples[(triton.cdiv(batch, rows),)](**arguments, **combining, **finishing, **gradient, **block)
        return
    chunks = triton.cdiv(size, BLOCK)
    device = arguments["LOSSES"].device
    partial = torch.empty((4, batch, chunks), dtype=torch.float64, device=device)
    factors = torch.empty((2, batch), dtype=torch.float64, device=device)
    waits = metric.name != "l2" or metric.cosine or options.normalize is not None or adaptive is not None
    shared = {**arguments, **combining, "PARTIAL": partial, "FACTORS": factors, "CHUNKS": chunks}
    at_once = {**finishing, "AT_ONCE": options.with_gradient and not waits}
    block = {"COLUMNS": BLOCK, "num_warps": warps(BLOCK)}
    _sums[(batch * chunks,)](**shared, **at_once, **block)
    few = {"ROWS": 1, "COLUMNS": triton.next_power_of_2(chunks), "num_warps": 4}
    ends = {key: arguments[key] for key in ("WEIGHT", "LOSSES", "BATCH", "SIZE")}
    _finish[(batch,)](**ends, PARTIAL=partial, FACTORS=factors, CHUNKS=chunks, **finishing, COSINE=metric.cosine, **few)
    if options.with_gradient and waits:
        _gradient_of_sums[(batch * chunks,)](**shared, **block)


def _kind(name: str, alpha: float) -> str:
    """The metric, with the limits of Barron's loss told apart."""
    if name != "barron":
        return name
    return {2.0: "barron_l2", 0.0: "cauchy", float("-inf"): "welsch"}.get(alpha, "barron")


@triton.jit
def _load_scalar(POINTER, rows, mask):
    return tl.load(POINTER + rows, mask=mask, other=0.0).to(tl.float64)


@triton.jit
def _coefficient(SCALARS, k, count, rows, mask, BATCH, TIMES: tl.constexpr, PRED_FIRST: tl.constexpr):
    """Coefficient of term ``k`` of ``count`` terms (without the prediction), float64 [ROWS]; formulas.h."""
    if TIMES:
        if k == count - 1:
            value = tl.full(rows.shape, -1.0, tl.float64)
        else:
            i = k + 1 if PRED_FIRST else k
            first = _load_scalar(SCALARS, rows, mask)
            second = _load_scalar(SCALARS + BATCH, rows, mask)
            length = _load_scalar(SCALARS + i * BATCH, rows, mask) - _load_scalar(SCALARS + (i + 1) * BATCH, rows, mask)
            dt = first - second
            usable = (length > 0) & (dt > 0)
            value = tl.where(usable, -length / tl.where(usable, dt, 1.0), float("nan"))
            value = tl.where((length == 0) & (dt >= 0), 0.0, value)
    else:
        value = _load_scalar(SCALARS + k * BATCH, rows, mask)
    return value


@triton.jit
def _load(POINTER, stride, rows, columns, mask, COMPUTE: tl.constexpr):
    return widened(tl.load(POINTER + rows[:, None] * stride + columns[None, :], mask=mask, other=0.0), COMPUTE)


@triton.jit
def _residual(
    TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, rows, columns, row_mask, mask, BATCH,
    TIMES: tl.constexpr, PRED_FIRST: tl.constexpr, HAS_CLIP: tl.constexpr, CLIP: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """R on a block [ROWS, COLUMNS]; 0 outside ``mask``. A tensor whose coefficient is 0 is not read."""
    count: tl.constexpr = len(TENSORS) - 1 if PRED_FIRST else len(TENSORS)
    shift: tl.constexpr = 1 if PRED_FIRST else 0
    ones = tl.full(rows.shape, 1.0, tl.float64)
    if TIMES:
        own = ones
    elif PRED_FIRST:
        own = ones if PRED_COEFF is None else _load_scalar(PRED_COEFF, rows, row_mask)
    else:
        own = _coefficient(SCALARS, 0, count, rows, row_mask, BATCH, TIMES, PRED_FIRST)
    total = own
    for k in tl.static_range(1 - shift, count):
        total += _coefficient(SCALARS, k, count, rows, row_mask, BATCH, TIMES, PRED_FIRST)
    if TIMES:
        total = tl.zeros(rows.shape, tl.float64)
    anchored = own != 0
    anchor = _load(TENSORS[0], STRIDES[0], rows, columns, mask & anchored[:, None], COMPUTE)
    total = tl.where(anchored, total, 0.0).to(COMPUTE)[:, None]
    value = tl.where(total == 0, 0.0, total * anchor)
    for k in tl.static_range(1 - shift, count):
        coeff = _coefficient(SCALARS, k, count, rows, row_mask, BATCH, TIMES, PRED_FIRST)
        used = (coeff != 0)[:, None]
        term = _load(TENSORS[k + shift], STRIDES[k + shift], rows, columns, mask & used, COMPUTE)
        value += tl.where(used, coeff.to(COMPUTE)[:, None] * (term - anchor), 0.0)
    if HAS_CLIP:  # written so that NaN stays NaN
        value = tl.where(value < -CLIP, -CLIP, tl.where(value > CLIP, CLIP, value))
    if SCALE is not None:
        value = _load_scalar(SCALE, rows, row_mask).to(COMPUTE)[:, None] * value
    return tl.where(mask, value, 0.0)


@triton.jit
def _log1p(x):
    """log(1 + x) for x >= 0, exact where x is small (Kahan): Triton has no such function on every device."""
    u = 1 + x
    small = u == 1
    return tl.where(small, x, tl.log(u) * x / tl.where(small, 1.0, u - 1))


@triton.jit
def _expm1(x):
    """exp(x) - 1, exact where x is small (Kahan)."""
    u = tl.exp(x)
    plain = (u == 1) | (u <= 0) | (u > 1e300)
    return tl.where(u == 1, x, tl.where(plain, u - 1, (u - 1) * x / tl.log(tl.where(plain, 2.0, u))))


@triton.jit
def _metric(m, METRIC: tl.constexpr, C: tl.constexpr, ALPHA: tl.constexpr):
    """rho(m) and its derivative, float64; formulas.h."""
    if METRIC == "l2":
        value, slope = m, tl.full(m.shape, 1.0, tl.float64)
    elif METRIC == "pseudo_huber":
        root = tl.sqrt(m + C * C)
        zero = root == 0
        safe = tl.where(zero, 1.0, root)
        value, slope = tl.where(zero, 0.0, m / (safe + C)), tl.where(zero, 0.0, 0.5 / safe)
    else:
        x, half = m / (C * C), 0.5 / (C * C)
        if METRIC == "barron_l2":
            value, slope = 0.5 * x, tl.full(m.shape, 1.0, tl.float64) * half
        elif METRIC == "cauchy":
            value, slope = _log1p(0.5 * x), half / (1 + 0.5 * x)
        elif METRIC == "welsch":
            value, slope = -_expm1(-0.5 * x), half * tl.exp(-0.5 * x)
        else:
            beta = abs(ALPHA - 2)
            log_base = _log1p(x / beta)
            value = beta / ALPHA * _expm1(0.5 * ALPHA * log_base)
            slope = half * tl.exp((0.5 * ALPHA - 1) * log_base)
    return value, slope


@triton.jit
def _outcome(
    rr, pp, pr, yy, weight, SIZE, BATCH,
    METRIC: tl.constexpr, C: tl.constexpr, ALPHA: tl.constexpr, COSINE: tl.constexpr, NORMALIZE: tl.constexpr,
    POWER: tl.constexpr, EPS: tl.constexpr, MEAN: tl.constexpr, STORAGE_SCALE: tl.constexpr,
):  # fmt: skip
    """Loss of each sample and the factors of R and of the prediction in its gradient, float64 [ROWS]; formulas.h."""
    size = SIZE.to(tl.float64)
    shrink = tl.full(rr.shape, 1.0, tl.float64)
    if NORMALIZE >= 0:
        shrink = 1 / (tl.sqrt(rr) + NORMALIZE)
        rr = rr * shrink * shrink
    if POWER != 0:
        weight = weight * tl.exp(-POWER * tl.log(rr + EPS))
    loss, slope = _metric(rr / size, METRIC, C, ALPHA)
    by_residual = slope * 2 / size * shrink
    by_pred = tl.zeros(rr.shape, tl.float64)
    if COSINE != 0:
        p, y = tl.sqrt(pp), tl.sqrt(yy)
        undirected = (p < 1e-8) | (y < 1e-8)
        product = tl.where(undirected, 1.0, p * y)
        apart = (2 * pr - rr) / tl.where(undirected, 1.0, p + y)
        across = rr - apart * apart
        across = tl.where(across < 0, 0.0, across)
        loss += COSINE * tl.where(undirected, 1.0, across / (2 * product))
        by_residual += tl.where(undirected, 0.0, COSINE / product)
        by_pred -= tl.where(undirected, 0.0, COSINE * pr / (tl.where(undirected, 1.0, pp) * product))
    gradient_weight = weight * STORAGE_SCALE
    if MEAN:
        gradient_weight = gradient_weight / BATCH.to(tl.float64)
    return loss * weight, by_residual * gradient_weight, by_pred * gradient_weight


@triton.jit
def _weights(WEIGHT, rows, mask):
    if WEIGHT is None:
        value = tl.full(rows.shape, 1.0, tl.float64)
    else:
        value = _load_scalar(WEIGHT, rows, mask)
    return value


@triton.jit
def _row_sums(values):
    """Sums over columns, in float64 from the first partial sums on."""
    return tl.sum(values.to(tl.float64), axis=1)


@triton.jit
def _block_sums(residual, pred, COSINE: tl.constexpr):
    rr = _row_sums(residual * residual)
    pp, pr, yy = rr, rr, rr
    if COSINE != 0:
        pp, pr = _row_sums(pred * pred), _row_sums(pred * residual)
        yy = _row_sums((pred - residual) * (pred - residual))
    return rr, pp, pr, yy


@triton.jit
def _whole_samples(
    PRED, TENSORS, PRED_STRIDE, STRIDES, SCALARS, PRED_COEFF, SCALE, WEIGHT, LOSSES, GRADIENT, BATCH, SIZE,
    TIMES: tl.constexpr, PRED_FIRST: tl.constexpr, HAS_CLIP: tl.constexpr, CLIP: tl.constexpr, COSINE: tl.constexpr,
    COMPUTE: tl.constexpr, METRIC: tl.constexpr, C: tl.constexpr, ALPHA: tl.constexpr, NORMALIZE: tl.constexpr,
    POWER: tl.constexpr, EPS: tl.constexpr, MEAN: tl.constexpr, STORAGE_SCALE: tl.constexpr,
    WITH_GRADIENT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """ROWS whole samples a program."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    row_mask = rows < BATCH
    mask = row_mask[:, None] & (columns < SIZE)[None, :]
    residual = _residual(
        TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, rows, columns, row_mask, mask, BATCH,
        TIMES, PRED_FIRST, HAS_CLIP, CLIP, COMPUTE,
    )  # fmt: skip
    pred = residual
    if COSINE != 0:
        pred = _load(PRED, PRED_STRIDE, rows, columns, mask, COMPUTE)
    rr, pp, pr, yy = _block_sums(residual, pred, COSINE)
    weight = _weights(WEIGHT, rows, row_mask)
    loss, by_residual, by_pred = _outcome(
        rr, pp, pr, yy, weight, SIZE, BATCH, METRIC, C, ALPHA, COSINE, NORMALIZE, POWER, EPS, MEAN, STORAGE_SCALE
    )
    tl.store(LOSSES + rows, narrowed(loss, LOSSES), mask=row_mask)
    if WITH_GRADIENT:
        gradient = by_residual.to(COMPUTE)[:, None] * residual
        if COSINE != 0:
            gradient += by_pred.to(COMPUTE)[:, None] * pred
        to = GRADIENT + rows[:, None] * SIZE + columns[None, :]
        tl.store(to, narrowed(gradient, GRADIENT), mask=mask)


@triton.jit
def _chunk(CHUNKS, SIZE, COLUMNS: tl.constexpr):
    """Row [1], columns and masks of this program's chunk of a sample."""
    program = tl.program_id(0).to(tl.int64)
    rows = program // CHUNKS + tl.arange(0, 1)
    columns = (program % CHUNKS) * COLUMNS + tl.arange(0, COLUMNS)
    return rows, columns, rows >= 0, (columns < SIZE)[None, :]


@triton.jit
def _sums(
    PRED, TENSORS, PRED_STRIDE, STRIDES, SCALARS, PRED_COEFF, SCALE, WEIGHT, LOSSES, GRADIENT, PARTIAL, FACTORS,
    BATCH, SIZE, CHUNKS,
    TIMES: tl.constexpr, PRED_FIRST: tl.constexpr, HAS_CLIP: tl.constexpr, CLIP: tl.constexpr, COSINE: tl.constexpr,
    COMPUTE: tl.constexpr, METRIC: tl.constexpr, C: tl.constexpr, ALPHA: tl.constexpr, NORMALIZE: tl.constexpr,
    POWER: tl.constexpr, EPS: tl.constexpr, MEAN: tl.constexpr, STORAGE_SCALE: tl.constexpr,
    AT_ONCE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sums of one chunk of a large sample; AT_ONCE writes the gradient too, whose factor does not depend on them."""
    rows, columns, row_mask, mask = _chunk(CHUNKS, SIZE, COLUMNS)
    residual = _residual(
        TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, rows, columns, row_mask, mask, BATCH,
        TIMES, PRED_FIRST, HAS_CLIP, CLIP, COMPUTE,
    )  # fmt: skip
    pred = residual
    if COSINE != 0:
        pred = _load(PRED, PRED_STRIDE, rows, columns, mask, COMPUTE)
    rr, pp, pr, yy = _block_sums(residual, pred, COSINE)
    program = tl.program_id(0) + tl.arange(0, 1)
    step = BATCH.to(tl.int64) * CHUNKS
    tl.store(PARTIAL + program, rr)
    if COSINE != 0:
        tl.store(PARTIAL + step + program, pp)
        tl.store(PARTIAL + 2 * step + program, pr)
        tl.store(PARTIAL + 3 * step + program, yy)
    if AT_ONCE:
        nothing = tl.zeros(rows.shape, tl.float64)
        _, by_residual, _ = _outcome(
            nothing, nothing, nothing, nothing, _weights(WEIGHT, rows, row_mask), SIZE, BATCH,
            METRIC, C, ALPHA, COSINE, NORMALIZE, POWER, EPS, MEAN, STORAGE_SCALE,
        )  # fmt: skip
        gradient = by_residual.to(COMPUTE)[:, None] * residual
        to = GRADIENT + rows[:, None] * SIZE + columns[None, :]
        tl.store(to, narrowed(gradient, GRADIENT), mask=mask)


@triton.jit
def _finish(
    WEIGHT, LOSSES, BATCH, SIZE, PARTIAL, FACTORS, CHUNKS,
    METRIC: tl.constexpr, C: tl.constexpr, ALPHA: tl.constexpr, NORMALIZE: tl.constexpr, POWER: tl.constexpr,
    EPS: tl.constexpr, MEAN: tl.constexpr, STORAGE_SCALE: tl.constexpr, COSINE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One large sample: its loss and the factors of its gradient from the sums of its chunks."""
    rows = tl.program_id(0).to(tl.int64) + tl.arange(0, ROWS)
    row_mask = rows < BATCH
    columns = tl.arange(0, COLUMNS)
    at = rows[:, None] * CHUNKS + columns[None, :]
    mask = (columns < CHUNKS)[None, :]
    step = BATCH.to(tl.int64) * CHUNKS
    rr = tl.sum(tl.load(PARTIAL + at, mask=mask, other=0.0), axis=1)
    pp, pr, yy = rr, rr, rr
    if COSINE != 0:
        pp = tl.sum(tl.load(PARTIAL + step + at, mask=mask, other=0.0), axis=1)
        pr = tl.sum(tl.load(PARTIAL + 2 * step + at, mask=mask, other=0.0), axis=1)
        yy = tl.sum(tl.load(PARTIAL + 3 * step + at, mask=mask, other=0.0), axis=1)
    loss, by_residual, by_pred = _outcome(
        rr, pp, pr, yy, _weights(WEIGHT, rows, row_mask), SIZE, BATCH,
        METRIC, C, ALPHA, COSINE, NORMALIZE, POWER, EPS, MEAN, STORAGE_SCALE,
    )  # fmt: skip
    tl.store(LOSSES + rows, narrowed(loss, LOSSES), mask=row_mask)
    tl.store(FACTORS + rows, by_residual, mask=row_mask)
    tl.store(FACTORS + BATCH + rows, by_pred, mask=row_mask)


@triton.jit
def _gradient_of_sums(
    PRED, TENSORS, PRED_STRIDE, STRIDES, SCALARS, PRED_COEFF, SCALE, WEIGHT, LOSSES, GRADIENT, PARTIAL, FACTORS,
    BATCH, SIZE, CHUNKS,
    TIMES: tl.constexpr, PRED_FIRST: tl.constexpr, HAS_CLIP: tl.constexpr, CLIP: tl.constexpr, COSINE: tl.constexpr,
    COMPUTE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Second pass over a large sample whose gradient had to wait for its sums."""
    rows, columns, row_mask, mask = _chunk(CHUNKS, SIZE, COLUMNS)
    residual = _residual(
        TENSORS, STRIDES, SCALARS, PRED_COEFF, SCALE, rows, columns, row_mask, mask, BATCH,
        TIMES, PRED_FIRST, HAS_CLIP, CLIP, COMPUTE,
    )  # fmt: skip
    gradient = tl.load(FACTORS + rows).to(COMPUTE)[:, None] * residual
    if COSINE != 0:
        pred = _load(PRED, PRED_STRIDE, rows, columns, mask, COMPUTE)
        gradient += tl.load(FACTORS + BATCH + rows).to(COMPUTE)[:, None] * pred
    to = GRADIENT + rows[:, None] * SIZE + columns[None, :]
    tl.store(to, narrowed(gradient, GRADIENT), mask=mask)
