"""The operations in plain tensors: what every other backend is compared with.

It runs on any device and dtype. Given float64 tensors it computes in float64, else in float32, as the kernels do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rcgm_kernels import checks
from rcgm_kernels.coefficients import recursive_coefficients
from rcgm_kernels.inputs import LossInputs
from rcgm_kernels.layout import batched, compute_dtype
from rcgm_kernels.options import AdaptiveWeight, LossOptions, Metric
from rcgm_kernels.plan import LossPlan, Results

NAME = "reference"


def unavailable() -> str | None:
    """Why this backend cannot run here; None where it can."""
    return None


def supports(device: torch.device) -> bool:
    return True


@torch.no_grad()
def residual_loss(inputs: LossInputs, plan: LossPlan) -> Results:
    """The loss, the gradient to ``pred`` if it is wanted, and the scales ``[B]`` that its samples are stored with."""
    pred, terms, scalars, pred_coeff, scale, weight, normalize_scale = inputs
    options, dtype, size = plan.options, plan.dtype, plan.size
    if options.times and scalars.device.type == "cpu":
        checks.ordered_times(scalars, weight)
    p = pred.to(dtype)
    tensors = [term.to(dtype) for term in terms]
    if options.pred_in_residual:
        tensors.insert(0, p)
    residual = _combine(tensors, *_coefficients(scalars, pred_coeff, options, dtype))
    residual = residual.clamp(-options.clip, options.clip)
    if scale is not None:
        residual = batched(scale.to(dtype), residual) * residual
    if weight is not None:  # a sample of weight 0 may hold anything
        left_out = batched(weight == 0, residual)
        residual, p = residual.masked_fill(left_out, 0), p.masked_fill(left_out, 0)

    def total(values: Tensor) -> Tensor:
        return values.reshape(values.shape[0], size).sum(1)

    if options.normalize is not None:
        length = total(residual.square()).sqrt() + options.normalize
        factor = torch.where(length == 0, 0, 1 / length)  # a zero residual stays 0
        if normalize_scale is not None:
            factor = torch.where(length == 0, 0, factor * normalize_scale.to(dtype))
        residual = batched(factor, residual) * residual
    squared, divisor = total(residual.square()), options.divisor(size)
    loss, slope = _metric(options.metric, squared / divisor if divisor else squared * torch.nan)
    gradient = batched(2 * slope / max(divisor, 1), residual) * residual
    if options.metric.cosine:
        cosine, cosine_gradient = _cosine(p, residual, plan.positions or 1)
        loss = loss + options.metric.cosine * cosine
        gradient = gradient + options.metric.cosine * cosine_gradient.reshape(gradient.shape)
    sample_weight = _weight(squared, loss, weight, options.adaptive)
    loss = loss * sample_weight
    gradient = gradient * batched(sample_weight * options.share(plan.batch), residual)
    if weight is not None:
        loss, gradient = loss.masked_fill(weight == 0, 0), gradient.masked_fill(left_out, 0)
    if options.reduction != "none":
        loss = loss.mean() if options.reduction == "mean" else loss.sum()
    if not options.with_gradient:
        return loss, None, None
    scales = None
    if plan.scaled:
        scales = _storage_scales(gradient)
        gradient = gradient * batched(scales.to(dtype), gradient)
    return loss, gradient.to(pred.dtype).contiguous(), scales


def _storage_scales(gradient: Tensor) -> Tensor:
    """For each sample the power of two, float32 ``[B]``, that brings its elements below 2^15."""
    if not gradient.numel():
        return gradient.new_ones(gradient.shape[0], dtype=torch.float32)
    largest = gradient.nan_to_num(0, 0, 0).abs().flatten(1).amax(1) if gradient.ndim > 1 else gradient.abs()
    exponent = torch.frexp(largest.double()).exponent
    return torch.ldexp(torch.ones_like(largest, dtype=torch.float32), (15 - exponent).clamp(-100, 100))


def scale_gradient_(gradient: Tensor, upstream: Tensor, scales: Tensor) -> None:
    """Multiply ``gradient`` by ``upstream`` (a scalar or one value a sample) and divide it by its stored ``scales``."""
    dtype = compute_dtype(gradient, upstream)
    factor = upstream.to(dtype)
    if scales.numel():
        factor = factor / scales.to(dtype)
    gradient.copy_(gradient.to(dtype) * batched(factor, gradient))


def interpolate(x: Tensor, z: Tensor, alpha: Tensor, gamma: Tensor, out_dtype: torch.dtype) -> Tensor:
    """``[P, B, ...]``, point ``j`` being ``alpha[j] z + gamma[j] x``."""
    dtype = compute_dtype(x, z)
    shape = (*alpha.shape, *[1] * (x.ndim - 1))
    points = alpha.to(dtype).reshape(shape) * z.to(dtype) + gamma.to(dtype).reshape(shape) * x.to(dtype)
    return points.to(out_dtype).contiguous()


def advance_(out: Tensor, x: Tensor, velocity: Tensor, t: Tensor, r: Tensor) -> None:
    """Write ``x - (t - r) velocity`` into ``out``."""
    dtype = compute_dtype(x, velocity)
    step = batched((t.double() - r.double()).to(dtype), x)
    out.copy_(x.to(dtype) - step * velocity.to(dtype))


def ema_update_(ema: Sequence[Tensor], params: Sequence[Tensor], decay: float, copies: Sequence[Tensor]) -> None:
    """``ema <- decay ema + (1 - decay) params``, then ``copies <- ema``."""
    for average, param in zip(ema, params, strict=True):
        average.lerp_(param.to(average.dtype), 1 - decay)
    for copy, average in zip(copies, ema, strict=True) if copies else ():
        copy.copy_(average)


def _coefficients(
    scalars: Tensor, pred_coeff: Tensor | None, options: LossOptions, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Coefficients of all tensors ``[K, B]`` and their sums ``[B]``, the sum taken before rounding to ``dtype``."""
    if options.times:
        base, segments = recursive_coefficients(scalars)
        coeffs = torch.cat([base[None], segments, torch.where(base.isnan(), base, -1)[None]])
        return coeffs.to(dtype), torch.zeros_like(base, dtype=dtype)
    coeffs = scalars.double()
    if options.pred_in_residual:
        first = torch.ones_like(coeffs[0:1].sum(0)) if pred_coeff is None else pred_coeff.double()
        coeffs = torch.cat([first.expand(scalars.shape[1])[None], coeffs])
    return coeffs.to(dtype), coeffs.sum(0).to(dtype)


def _combine(tensors: list[Tensor], coeffs: Tensor, total: Tensor) -> Tensor:
    """``sum_k a_k T_k``, as ``(sum_k a_k) T_0 + sum_k a_k (T_k - T_0)`` where ``a_0`` is not 0.

    The coefficients of a few-step objective are of size 1/dt and add up to 0, so the second form is the accurate one.
    A term whose coefficient is 0 takes no part, whatever it holds.
    """
    first = tensors[0]
    anchored = batched(coeffs[0] != 0, first)
    anchor = torch.where(anchored, first, 0)
    value = torch.where(batched(coeffs[0] * total != 0, first), batched(total, first) * anchor, 0)
    for coeff, tensor in zip(coeffs[1:], tensors[1:], strict=True):
        a = batched(coeff, tensor)
        value = value + torch.where(a != 0, a * (tensor - anchor), 0)
    return value


def _metric(metric: Metric, m: Tensor) -> tuple[Tensor, Tensor]:
    """``rho(m)`` and its derivative."""
    c, alpha = metric.c, metric.alpha
    if metric.name == "l2":
        return m, torch.ones_like(m)
    if metric.name == "pseudo_huber":
        root = (m + c * c).sqrt()
        zero = root == 0
        return torch.where(zero, 0, m / (root + c)), torch.where(zero, 0, 0.5 / root)
    if metric.name == "barron_reweighting":
        x = m / (c * c + 1e-8)
        if alpha == -torch.inf:
            weight = torch.exp(-0.5 * x)
        else:
            weight = torch.ones_like(m) if alpha == 2 else (x / abs(alpha - 2) + 1).pow(0.5 * alpha - 1)
        return weight * m / c, weight / c
    x, half = m / (c * c), 0.5 / (c * c)
    if alpha == 2:
        return 0.5 * x, torch.full_like(m, half)
    if alpha == 0:
        return torch.log1p(0.5 * x), half / (1 + 0.5 * x)
    if alpha == -torch.inf:
        return -torch.expm1(-0.5 * x), half * torch.exp(-0.5 * x)
    beta = abs(alpha - 2)
    log_base = torch.log1p(x / beta)
    value = beta / alpha * torch.expm1(0.5 * alpha * log_base)
    return value, half * torch.exp((0.5 * alpha - 1) * log_base)


def _cosine(p: Tensor, residual: Tensor, positions: int) -> tuple[Tensor, Tensor]:
    """``1 - cos(p, p - R)``, averaged over ``positions``, and its gradient to ``p`` with the target ``p - R`` held."""
    shape = (p.shape[0], -1, positions) if p.numel() else (p.shape[0], 0, positions)
    p, residual = p.reshape(shape), residual.reshape(shape)

    def total(values: Tensor) -> Tensor:
        return values.sum(1)

    y = p - residual
    pp, pr, rr = total(p * p), total(p * residual), total(residual * residual)
    p_norm, y_norm = pp.sqrt(), total(y * y).sqrt()
    directed = (p_norm >= 1e-8) & (y_norm >= 1e-8) | p_norm.isnan() | y_norm.isnan()
    product = p_norm * y_norm
    across = (rr - ((2 * pr - rr) / (p_norm + y_norm)).square()).clamp(min=0)
    value = torch.where(directed, across / (2 * product), 1)
    gradient = (residual - (pr / pp)[:, None] * p) / product[:, None] / positions
    return value.mean(1), torch.where(directed[:, None], gradient, 0)


def _weight(squared: Tensor, loss: Tensor, weight: Tensor | None, adaptive: AdaptiveWeight | None) -> Tensor:
    total = torch.ones_like(squared) if weight is None else weight.to(squared.dtype)
    if adaptive is None:
        return total
    return total * ((loss if adaptive.of == "loss" else squared) + adaptive.eps).pow(-adaptive.power)
