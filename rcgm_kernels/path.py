"""Points of the path between data and noise, and steps along it."""

from __future__ import annotations

import torch
from torch import Tensor

from rcgm_kernels import checks
from rcgm_kernels.backends import AUTOMATIC, choose
from rcgm_kernels.layout import STORAGE_DTYPES, batched
from rcgm_kernels.library import define, is_plain


def interpolate(
    x: Tensor,
    z: Tensor,
    alpha: Tensor,
    gamma: Tensor,
    *,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    """Points ``alpha[j] z + gamma[j] x`` of the path, all in one pass over ``x`` and ``z`` (math.md section 1).

    A velocity is a point whose coefficients are the derivatives ``alpha'`` and ``gamma'``, so that a path point and its
    velocity are ``interpolate(x, z, stack([alpha, d_alpha]), stack([gamma, d_gamma])).unbind(0)``.

    Args:
        x: data, ``[B, ...]``; float64, float32, float16 or bfloat16.
        z: noise, the shape of ``x``.
        alpha: coefficients of the noise, ``[P, B]``, float32 or float64; P from 1 to 32.
        gamma: coefficients of the data, the shape of ``alpha``.
        dtype: of the result; None takes that of ``x``.
        backend: None chooses by device or by ``RCGM_BACKEND``.

    Returns:
        ``[P, B, ...]``, contiguous. Gradients flow to ``x`` and ``z``, not to the coefficients.

    Raises:
        TypeError, ValueError: before any work, for an argument that does not fit; the message names it.
    """
    checks.state("x", x)
    checks.state("z", z, x)
    if not isinstance(alpha, Tensor):
        raise TypeError(f"alpha must be a tensor, got {type(alpha).__name__}")
    if alpha.ndim != 2 or not 1 <= alpha.shape[0] <= checks.MAX_TERMS or alpha.shape[1] != x.shape[0]:
        raise ValueError(
            f"alpha must have the shape [P, {x.shape[0]}] with P from 1 to {checks.MAX_TERMS}, got {list(alpha.shape)}"
        )
    alpha = checks.scalars("alpha", alpha, tuple(alpha.shape), x)
    gamma = checks.scalars("gamma", gamma, tuple(alpha.shape), x)
    if dtype is not None and dtype not in STORAGE_DTYPES:
        raise TypeError(f"dtype must be one of {checks.names(STORAGE_DTYPES)}, got {dtype}")
    with_gradient = torch.is_grad_enabled() and (x.requires_grad or z.requires_grad)
    call = _interpolate if is_plain(x, z) and not with_gradient else torch.ops.rcgm_kernels.interpolate
    return call(x, z, alpha, gamma, dtype or x.dtype, backend or AUTOMATIC)


def advance(
    x: Tensor,
    velocity: Tensor,
    t: Tensor,
    r: Tensor,
    *,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """One step of a rollout: ``x - (t - r) velocity``, written where the next wave reads its input.

    Args:
        x: states at time ``t``, ``[B, ...]``; float64, float32, float16 or bfloat16.
        velocity: average velocity over ``[r, t]``, the shape of ``x``.
        t, r: times, ``[B]``, float32 or float64.
        out: where to write, of any storage dtype, with dense samples: a slice of a batched input, or ``x`` itself.
            None allocates a tensor like ``x``.
        backend: None chooses by device or by ``RCGM_BACKEND``.

    Returns:
        ``out``. No gradient: a rollout is made of targets.

    Raises:
        TypeError, ValueError: before any work, for an argument that does not fit; the message names it.
    """
    checks.state("x", x)
    checks.state("velocity", velocity, x)
    t = checks.scalars("t", t, tuple(x.shape[:1]), x)
    r = checks.scalars("r", r, tuple(x.shape[:1]), x)
    if out is None:
        out = torch.empty_like(x, memory_format=torch.contiguous_format, requires_grad=False)
    else:
        checks.state("out", out, x)
        if out.requires_grad:
            raise ValueError("out must not require a gradient, got a tensor that does")
        if out.numel() and any(s == 0 and n > 1 for n, s in zip(out.shape, out.stride(), strict=True)):
            raise ValueError(f"out must have memory for each element, got an expanded tensor of strides {out.stride()}")
    call = torch.no_grad()(_advance_) if is_plain(out, x, velocity) else torch.ops.rcgm_kernels.advance_
    call(out, x.detach(), velocity.detach(), t, r, backend or AUTOMATIC)
    return out


def _interpolate(x: Tensor, z: Tensor, alpha: Tensor, gamma: Tensor, dtype: torch.dtype, backend: str) -> Tensor:
    return choose(backend, x.device).interpolate(x, z, alpha, gamma, dtype)


def _fake_interpolate(x: Tensor, z: Tensor, alpha: Tensor, gamma: Tensor, dtype: torch.dtype, backend: str) -> Tensor:
    return x.new_empty((alpha.shape[0], *x.shape), dtype=dtype)


def _pulled_back(coeffs: Tensor, gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """What the gradient of the points gives to the tensor that these are their coefficients of."""
    total = sum(batched(c, g) * g for c, g in zip(coeffs.unbind(0), gradient.unbind(0), strict=True))
    return total.to(dtype)


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, z: Tensor, alpha: Tensor, gamma: Tensor, dtype: torch.dtype, backend: str) -> Tensor:
        ctx.save_for_backward(alpha, gamma)
        ctx.dtypes = x.dtype, z.dtype
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.rcgm_kernels.interpolate(x, z, alpha, gamma, dtype, backend)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        alpha, gamma = ctx.saved_tensors
        x_dtype, z_dtype = ctx.dtypes
        return _pulled_back(gamma, gradient, x_dtype), _pulled_back(alpha, gradient, z_dtype), None, None, None, None


def _advance_(out: Tensor, x: Tensor, velocity: Tensor, t: Tensor, r: Tensor, backend: str) -> None:
    choose(backend, x.device).advance_(out, x, velocity, t, r)
    torch.autograd.graph.increment_version(out)  # a graph that saved it must not be used


define(
    "interpolate(Tensor x, Tensor z, Tensor alpha, Tensor gamma, ScalarType dtype, str backend) -> Tensor",
    _interpolate,
    fake=_fake_interpolate,
    autograd=_Interpolate.apply,
)
define(
    "advance_(Tensor(a!) out, Tensor x, Tensor velocity, Tensor t, Tensor r, str backend) -> ()",
    _advance_,
    fake=lambda out, x, velocity, t, r, backend: None,
)
