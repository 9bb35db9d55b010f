"""Points of the path between data and noise, and steps along it."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from rcgm_kernels import checks
from rcgm_kernels.backends import AUTOMATIC, ENVIRONMENT, choose
from rcgm_kernels.known import known_calls
from rcgm_kernels.layout import STORAGE_DTYPES, batched, is_same_memory, meetings, share_memory
from rcgm_kernels.library import Differentiable, define, is_plain


def interpolate(
    x: Tensor,
    z: Tensor,
    alpha: Tensor | Sequence[Tensor | float],
    gamma: Tensor | Sequence[Tensor | float],
    *,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    """Points ``alpha[j] z + gamma[j] x`` of the path, all in one pass over ``x`` and ``z`` (math.md section 1).

    A velocity is a point whose coefficients are the derivatives ``alpha'`` and ``gamma'``, so that a path point and its
    velocity are ``interpolate(x, z, [t, 1.0], [1 - t, -1.0])`` on the linear path.

    Args:
        x: data, ``[B, ...]``; float64, float32, float16 or bfloat16.
        z: noise, the shape of ``x``.
        alpha: coefficients of the noise, ``[P, B]``, float32 or float64; P from 1 to 32. Or a sequence of P, each a
            number or a tensor of any storage dtype, ``[]``, ``[B]`` or ``[B, 1, ...]``.
        gamma: coefficients of the data, in one of these forms.
        dtype: of the result; None takes that of ``x``.
        backend: None chooses by device or by ``RCGM_BACKEND``.

    Returns:
        ``[P, B, ...]``, contiguous. Derivatives, of any order and in both modes, go to ``x`` and ``z``.

    Raises:
        TypeError, ValueError: before any work, for an argument that does not fit; the message names it.
    """
    given, options = (x, z, alpha, gamma), (dtype, backend)
    known = None if torch.compiler.is_compiling() else _KNOWN_POINTS.find(given, options)
    if known is not None:
        return known.interpolate(x, z, alpha, gamma, x.dtype if dtype is None else dtype)
    checks.state("x", x)
    alpha = checks.rows("alpha", alpha, x)
    gamma = checks.rows("gamma", gamma, x, alpha.shape[0])
    dtype = x.dtype if dtype is None else dtype
    _check_points(x, z, dtype)
    with_gradient = torch.is_grad_enabled() and (x.requires_grad or z.requires_grad)
    if is_plain(x, z, alpha, gamma) and not with_gradient:
        chosen = choose(backend, x.device)
        if given[2] is alpha and given[3] is gamma:  # nothing was converted
            _KNOWN_POINTS.remember(given, options, chosen)
        return chosen.interpolate(x, z, alpha, gamma, dtype)
    if torch._C._are_functorch_transforms_active():
        call = _Interpolate.call
    else:
        call = torch.ops.rcgm_kernels.interpolate
    return call(x, z, alpha, gamma, dtype, backend or AUTOMATIC)


def advance(
    x: Tensor,
    velocity: Tensor,
    t: Tensor | float,
    r: Tensor | float,
    *,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """One step of a rollout: ``x - (t - r) velocity``, written where the next wave reads its input.

    Args:
        x: states at time ``t``, ``[B, ...]``; float64, float32, float16 or bfloat16.
        velocity: average velocity over ``[r, t]``, the shape of ``x``.
        t, r: times, ``[B]``, float32 or float64; or a number, or a tensor of any storage dtype, ``[]`` or
            ``[B, 1, ...]``.
        out: where to write, of any storage dtype, with dense samples: a slice of a batched input, say. It may be ``x``
            or ``velocity`` itself and shares no memory with them otherwise. None allocates a tensor like ``x``.
        backend: None chooses by device or by ``RCGM_BACKEND``.

    Returns:
        ``out``. No derivative: a rollout is made of targets. Where one is wanted, ``interpolate(x, velocity, [r - t],
        [1.0])[0]`` is the same step.

    Raises:
        TypeError, ValueError: before any work, for an argument that does not fit; the message names it.
        RuntimeError: for dual numbers (forward-mode derivatives), and for ``out`` inside of ``torch.func`` transforms.
    """
    given = (x, velocity, t, r, out)
    known = None if torch.compiler.is_compiling() else _KNOWN_STEPS.find(given, (backend,))
    if known is not None:
        return _stepped(out, x, velocity, t, r, known)
    checks.state("x", x)
    checks.state("velocity", velocity, x)
    t, r = checks.scalars("t", t, x), checks.scalars("r", r, x)
    if out is not None:
        _check_out(out, x)
    if is_plain(out, x, velocity, t, r):
        chosen = choose(backend, x.device)
        if given[2] is t and given[3] is r:  # nothing was converted
            _KNOWN_STEPS.remember(given, (backend,), chosen)
        return _stepped(out, x, velocity, t, r, chosen)
    backend = backend or AUTOMATIC
    _refuse_tangents(x, velocity)
    x, velocity = x.detach(), velocity.detach()
    if not torch._C._are_functorch_transforms_active():
        out = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
        torch.ops.rcgm_kernels.advance_(out, x, velocity, t, r, backend)
        return out
    if out is not None:
        raise RuntimeError("out must be None inside of torch.func transforms, got a tensor: they cannot write in place")
    backwards, whole = (r.double() - t.double())[None], torch.ones_like(r)[None]
    return interpolate(x, velocity, backwards, whole, backend=backend)[0]


# The backends of the calls that passed their checks.
_KNOWN_POINTS, _KNOWN_STEPS = known_calls(ENVIRONMENT), known_calls(ENVIRONMENT)


def _check_points(x: Tensor, z: Tensor, dtype: torch.dtype) -> None:
    checks.state("z", z, x)
    if dtype not in STORAGE_DTYPES:
        raise TypeError(f"dtype must be one of {checks.names(STORAGE_DTYPES)}, got {dtype}")


def _check_interpolate(x: Tensor, z: Tensor, alpha: Tensor, gamma: Tensor, dtype: torch.dtype, backend: str) -> None:
    checks.state("x", x)
    _check_points(x, z, dtype)
    checks.stored_rows("alpha", alpha, x)
    checks.stored_scalars("gamma", gamma, tuple(alpha.shape), x)


def _check_out(out: Tensor, x: Tensor) -> None:
    checks.state("out", out, x)
    if out.requires_grad and not out.is_inference():
        raise ValueError("out must not require a gradient, got a tensor that does")
    checks.writable("out", out)


def _check_apart(out: Tensor, *inputs: Tensor) -> None:
    """Check that writing ``out`` changes nothing that is still to be read."""
    for first, second in meetings([out, *inputs]):
        index = max(first, second) - 1
        if min(first, second) > 0 or is_same_memory(out, inputs[index]) or not share_memory(out, inputs[index]):
            continue
        name = ("x", "velocity", "t", "r")[index]
        raise ValueError(f"out must be {name} itself or share no memory with it, got an overlap in part")


def _check_advance(out: Tensor, x: Tensor, velocity: Tensor, t: Tensor, r: Tensor, backend: str) -> None:
    checks.state("x", x)
    checks.state("velocity", velocity, x)
    checks.stored_scalars("t", t, tuple(x.shape[:1]), x)
    checks.stored_scalars("r", r, tuple(x.shape[:1]), x)
    _check_out(out, x)


def _refuse_tangents(*tensors: Tensor) -> None:
    if any(map(checks.has_tangent, tensors)):
        raise RuntimeError(
            "advance carries no derivative and takes no dual numbers: use interpolate(x, velocity, [r - t], [1.0])[0], "
            "the same step with derivatives, or detach() its inputs"
        )


def _interpolate(x: Tensor, z: Tensor, alpha: Tensor, gamma: Tensor, dtype: torch.dtype, backend: str) -> Tensor:
    return choose(backend, x.device).interpolate(x, z, alpha, gamma, dtype)


def _fake_interpolate(x: Tensor, z: Tensor, alpha: Tensor, gamma: Tensor, dtype: torch.dtype, backend: str) -> Tensor:
    return x.new_empty((alpha.shape[0], *x.shape), dtype=dtype)


class _Interpolate(Differentiable):
    @staticmethod
    def forward(x: Tensor, z: Tensor, alpha: Tensor, gamma: Tensor, dtype: torch.dtype, backend: str) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.rcgm_kernels.interpolate(x, z, alpha, gamma, dtype, backend)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        x, z, alpha, gamma, dtype, _ = inputs
        ctx.save_for_backward(alpha, gamma)
        ctx.save_for_forward(alpha, gamma)
        ctx.dtypes = x.dtype, z.dtype, dtype

    @staticmethod
    def backward(ctx, gradient: Tensor):
        alpha, gamma = ctx.saved_tensors
        x_dtype, z_dtype, _ = ctx.dtypes
        return _pulled_back(gamma, gradient, x_dtype), _pulled_back(alpha, gradient, z_dtype), None, None, None, None

    @staticmethod
    def jvp(ctx, x: Tensor, z: Tensor, *_):
        alpha, gamma = ctx.saved_tensors
        shape = (*alpha.shape, *[1] * (x.ndim - 1))
        return (alpha.reshape(shape) * z + gamma.reshape(shape) * x).to(ctx.dtypes[2])


def _pulled_back(coeffs: Tensor, gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """What the gradient of the points gives to the tensor that these are their coefficients of."""
    total = sum(batched(c, g) * g for c, g in zip(coeffs.unbind(0), gradient.unbind(0), strict=True))
    return total.to(dtype)


def _advance_(out: Tensor, x: Tensor, velocity: Tensor, t: Tensor, r: Tensor, backend: str) -> None:
    if out.device.type != "meta":
        _check_apart(out, x, velocity, t, r)
    _step(out, x, velocity, t, r, choose(backend, x.device))


def _step(out: Tensor, x: Tensor, velocity: Tensor, t: Tensor, r: Tensor, backend: ModuleType) -> None:
    backend.advance_(out, x, velocity, t, r)
    torch.autograd.graph.increment_version(out)  # a graph that saved it must not be used


def _stepped(out: Tensor | None, x: Tensor, velocity: Tensor, t: Tensor, r: Tensor, backend: ModuleType) -> Tensor:
    """``out``, or a new tensor, after a step without the dispatcher."""
    if out is None:
        out = torch.empty_like(x, memory_format=torch.contiguous_format, requires_grad=False)
        backend.advance_(out, x.detach(), velocity.detach(), t, r)
        return out
    _check_apart(out, x, velocity, t, r)
    _step(out, x.detach(), velocity.detach(), t, r, backend)
    return out


def _advance_without_derivative(out: Tensor, x: Tensor, velocity: Tensor, t: Tensor, r: Tensor, backend: str) -> None:
    _refuse_tangents(out, x, velocity, t, r)
    with torch._C._AutoDispatchBelowAutograd():
        torch.ops.rcgm_kernels.advance_(out, x, velocity, t, r, backend)


define(
    "interpolate(Tensor x, Tensor z, Tensor alpha, Tensor gamma, ScalarType dtype, str backend) -> Tensor",
    _interpolate,
    check=_check_interpolate,
    fake=_fake_interpolate,
    autograd=_Interpolate.in_one.apply,
)
define(
    "advance_(Tensor(a!) out, Tensor x, Tensor velocity, Tensor t, Tensor r, str backend) -> ()",
    _advance_,
    check=_check_advance,
    fake=lambda out, x, velocity, t, r, backend: None,
    autograd=_advance_without_derivative,
)
