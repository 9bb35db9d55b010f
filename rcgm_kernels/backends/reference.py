"""The operations in plain tensors: what every other backend is compared with.

It runs on any device and dtype. Given float64 tensors it computes in float64, else in float32, as the kernels do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rcgm_kernels import checks
from rcgm_kernels.coefficients import recursive_coefficients
from rcgm_kernels.layout import batched, compute_dtype, sample_size
from rcgm_kernels.options import AdaptiveWeight, LossOptions, Metric

NAME = "reference"


def unavailable() -> str | None:
    """Why this backend cannot run here; None where it can."""
    return None


def supports(device: torch.device) -> bool:
    return True


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
    """The loss and the gradient to ``pred`` (an empty tensor where it is not wanted)."""
    if options.times and scalars.device.type == "cpu":
        checks.ordered_times(scalars)
    dtype = compute_dtype(pred, *terms)
    p = pred.to(dtype)
    tensors = [term.to(dtype) for term in terms]
    if options.pred_in_residual:
        tensors.insert(0, p)
    residual = _combine(tensors, *_coefficients(scalars, pred_coeff, options, dtype))
    residual = residual.clamp(-options.clip, options.clip)
    if scale is not None:
        residual = batched(scale.to(dtype), residual) * residual

    size = sample_size(pred)

    def total(values: Tensor) -> Tensor:
        return values.reshape(values.shape[0], size).sum(1)

    if options.normalize is not None:
        length = total(residual.square()).sqrt() + options.normalize
        residual = residual / batched(torch.where(length == 0, 1, length), residual)  # a zero residual stays 0
    squared = total(residual.square())
    loss, slope = _metric(options.metric, squared / size)
    gradient = batched(2 * slope / size, residual) * residual
    if options.metric.cosine:
        cosine, cosine_gradient = _cosine(p, residual, total)
        loss = loss + options.metric.cosine * cosine
        gradient = gradient + options.metric.cosine * cosine_gradient
    sample_weight = _weight(squared, weight, options.adaptive)
    loss = loss * sample_weight
    gradient = gradient * batched(sample_weight * options.gradient_scale(pred.shape[0], storage_scale), residual)
    if options.reduction != "none":
        loss = loss.mean() if options.reduction == "mean" else loss.sum()
    return loss, gradient.to(pred.dtype).contiguous() if options.with_gradient else pred.new_empty(0)


def scale_gradient_(gradient: Tensor, upstream: Tensor, divisor: float) -> None:
    """Multiply ``gradient`` by ``upstream / divisor`` (a scalar or one value a sample)."""
    dtype = compute_dtype(gradient, upstream)
    factor = batched(upstream.to(dtype) / divisor, gradient)
    gradient.copy_(gradient.to(dtype) * factor)


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
        coeffs = torch.cat([base[None], segments, -torch.ones_like(base)[None]])
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


def _cosine(p: Tensor, residual: Tensor, total) -> tuple[Tensor, Tensor]:
    """``1 - cos(p, p - R)`` and its gradient to ``p`` with the target ``p - R`` held still."""
    y = p - residual
    pp, pr, rr = total(p * p), total(p * residual), total(residual * residual)
    p_norm, y_norm = pp.sqrt(), total(y * y).sqrt()
    directed = (p_norm >= 1e-8) & (y_norm >= 1e-8) | p_norm.isnan() | y_norm.isnan()
    product = p_norm * y_norm
    across = (rr - ((2 * pr - rr) / (p_norm + y_norm)).square()).clamp(min=0)
    value = torch.where(directed, across / (2 * product), 1)
    gradient = (residual - batched(pr / pp, p) * p) / batched(product, p)
    return value, torch.where(batched(directed, p), gradient, 0)


def _weight(squared: Tensor, weight: Tensor | None, adaptive: AdaptiveWeight | None) -> Tensor:
    total = torch.ones_like(squared) if weight is None else weight.to(squared.dtype)
    return total if adaptive is None else total * (squared + adaptive.eps).pow(-adaptive.power)
