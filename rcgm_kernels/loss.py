"""The fused losses: combine, clamp, reduce, weigh and differentiate in one pass over memory."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rcgm_kernels import checks
from rcgm_kernels.backends import AUTOMATIC, choose
from rcgm_kernels.inputs import LossInputs
from rcgm_kernels.layout import batched, compute_dtype, dense_samples, share_memory
from rcgm_kernels.library import Differentiable, define, is_plain
from rcgm_kernels.options import AdaptiveWeight, LossOptions, Metric

LEARN_A_WEIGHT = 'to learn a weight, multiply the losses of reduction="none" by it; else detach() it'


def fused_loss(
    pred: Tensor,
    segments: Tensor | Sequence[Tensor],
    velocity: Tensor,
    times: Tensor | Sequence[Tensor | float],
    *,
    base: Tensor | None = None,
    clip: float | None = 1.0,
    metric: Metric | str = "l2",
    normalize: float | None = None,
    normalize_scale: Tensor | float | None = None,
    reduce: str = "mean",
    weight: Tensor | float | None = None,
    adaptive: AdaptiveWeight | float | None = None,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """Loss of the N-th order recursive residual (RCGM, equations 7 to 9; math.md section 2).

    With ``dt = t_0 - t_1``, ``t = t_0`` and ``r = t_{N+1}``::

        zeta = (1/dt) [ (t - r) base - sum_i (t_i - t_{i+1}) segments[i] ] - velocity
        R    = clamp(zeta, -clip, clip)
        loss = reduction over samples of  weight * rho(mean_D(R^2))

    and the gradient to ``pred`` is that of ``rho(mean_D((pred - stop_gradient(pred - R))^2))``. ``reduce="sum"`` has a
    sum over the D elements of a sample for that mean. Where ``t_1 = r`` (also at ``t = r``) the residual is ``base -
    velocity``: flow matching. Each input is read once and the gradient is written in the same pass; arithmetic is
    float32, or float64 if any input is.

    Args:
        pred: ``F(x_t, t, r)`` with gradient, ``[B, ...]``; float64, float32, float16 or bfloat16, as all tensors here.
        segments: ``F-(x_{t_i}, t_i, t_{i+1})`` for ``i = 1..N``: ``[N, B, ...]`` or a sequence of N tensors ``[B,
            ...]``, N from 0 to 30. Views with dense samples (slices of a batched forward) are read where they are. A
            segment of length 0 is not read.
        velocity: ``v_t``, ``[B, ...]``.
        times: the knots ``t_0 > t_1 >= ... >= t_{N+1}``, ``[N+2, B]``, float32 or float64; or a sequence of N+2, each a
            number or a tensor of any storage dtype, ``[]``, ``[B]`` or ``[B, 1, ...]``. On a CPU their order is
            checked; elsewhere a sample with unordered or infinite knots gives NaN, and no other sample does.
        base: ``F(x_t, t, r)`` inside ``zeta``; None takes ``pred`` without gradient.
        clip: bound of the clamp, ``> 0``; None for no clamp.
        metric: ``"l2"``, ``"pseudo_huber"``, ``"barron"``, ``"barron_reweighting"`` or a :class:`Metric`.
        normalize, normalize_scale: as in :func:`fused_residual_loss`.
        reduce: over the elements of a sample, ``"mean"`` or ``"sum"``; the metric is applied to what it gives.
        weight: per-sample weight, a number or a tensor as for ``times``, without gradient: to learn a weight, multiply
            the losses of ``reduction="none"`` by it. A sample of weight 0 is left out: it may hold anything, its loss
            and gradient are 0, and a mean over the batch still counts it.
        adaptive: an :class:`AdaptiveWeight`, or its power.
        reduction: over samples, ``"mean"``, ``"sum"`` or ``"none"`` (``[B]``).
        backend: ``"cuda"``, ``"triton"``, ``"cpu"`` or ``"reference"``; None chooses by device or by ``RCGM_BACKEND``.

    Returns:
        The loss, float32 (float64 for float64 input): a scalar, or ``[B]`` for ``reduction="none"``. It has no second
        and no forward-mode derivative; ``torch.func.grad`` and ``vmap`` (a call for each entry) work.

    Raises:
        TypeError, ValueError: before any work, for an argument that does not fit; the message names it.
        RuntimeError: where a second or a forward-mode derivative is asked for.
    """
    checks.state("pred", pred)
    segments = _term_list("segments", segments, pred)
    checks.state("velocity", velocity, pred)
    if base is not None:
        checks.state("base", base, pred)
    times = checks.rows("times", times, pred, len(segments) + 2)
    terms = [*([] if base is None else [base]), *segments, velocity]
    options = _options(
        pred, clip=clip, metric=metric, normalize=normalize, adaptive=adaptive, reduce=reduce, reduction=reduction,
        times=True, pred_in_residual=base is None,
    )  # fmt: skip
    return _loss(LossInputs(pred, terms, times, None, None, weight, normalize_scale), options, backend)


def fused_residual_loss(
    pred: Tensor,
    terms: Tensor | Sequence[Tensor],
    coeffs: Tensor | Sequence[Tensor | float],
    *,
    pred_coeff: Tensor | float = 1.0,
    clip: float | None = None,
    scale: Tensor | float | None = None,
    metric: Metric | str = "l2",
    normalize: float | None = None,
    normalize_scale: Tensor | float | None = None,
    reduce: str = "mean",
    weight: Tensor | float | None = None,
    adaptive: AdaptiveWeight | float | None = None,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """Loss of a linear combination of network outputs: the one form of every few-step objective (math.md section 3).

    ::

        R    = scale * clamp(pred_coeff * pred + sum_k coeffs[k] * terms[k], -clip, clip)
        R    = normalize_scale * R / (|R| + normalize)                if normalize is given (tangent normalisation, sCM)
        loss = reduction over samples of  weight * adaptive * (rho(mean_D(R^2)) + cosine (1 - cos(pred, pred - R)))

    The gradient to ``pred`` is as if ``dR/dpred = 1``: that of a regression on the target ``stop_gradient(pred - R)``.
    Nothing else gets a gradient. Each input is read once and the gradient is written in the same pass; arithmetic is
    float32, or float64 if any input is. A term whose coefficient is 0 in a sample is not read there and may hold
    anything.

    Args:
        pred: prediction with gradient, ``[B, ...]``; float64, float32, float16 or bfloat16, as all tensors here.
        terms: ``[K, B, ...]`` or a sequence of K tensors ``[B, ...]``, K from 0 to 32 (one less if ``pred_coeff`` is
            not 0).
        coeffs: ``[K, B]``, float32 or float64; or a sequence of K, each a number or a tensor of any storage dtype,
            ``[]``, ``[B]`` or ``[B, 1, ...]``. Where a microsecond counts, give one tensor: a sequence is put together
            first.
        pred_coeff: a number or a tensor, as one entry of ``coeffs``.
        clip: bound of the clamp, ``> 0``; None for no clamp.
        scale: applied after the clamp; a number or a tensor, as one entry of ``coeffs``.
        metric: ``"l2"``, ``"pseudo_huber"``, ``"barron"``, ``"barron_reweighting"`` or a :class:`Metric`.
        normalize: constant ``>= 0`` of the tangent normalisation (0.1 in sCM); it cannot be had with a cosine term,
            since a normalised tangent has no target to compare the prediction with.
        normalize_scale: what the normalised residual is multiplied by, a number or a tensor, as one entry of
            ``coeffs``; None for 1. It needs ``normalize``.
        reduce, weight, adaptive, reduction, backend: as in :func:`fused_loss`.

    Returns:
        The loss, float32 (float64 for float64 input): a scalar, or ``[B]`` for ``reduction="none"``. It has no second
        and no forward-mode derivative; ``torch.func.grad`` and ``vmap`` (a call for each entry) work.

    Raises:
        TypeError, ValueError: before any work, for an argument that does not fit; the message names it.
        RuntimeError: where a second or a forward-mode derivative is asked for.
    """
    checks.state("pred", pred)
    terms = _term_list("terms", terms, pred)
    coeffs = checks.rows("coeffs", coeffs, pred, len(terms))
    if isinstance(pred_coeff, (Tensor, bool)) or pred_coeff not in (0, 1):
        pred_coeff, pred_in_residual = checks.scalars("pred_coeff", pred_coeff, pred), True
    else:
        pred_coeff, pred_in_residual = None, pred_coeff == 1
    scale = None if scale is None else checks.scalars("scale", scale, pred)
    options = _options(
        pred, clip=clip, metric=metric, normalize=normalize, adaptive=adaptive, reduce=reduce, reduction=reduction,
        times=False, pred_in_residual=pred_in_residual,
    )  # fmt: skip
    return _loss(LossInputs(pred, terms, coeffs, pred_coeff, scale, weight, normalize_scale), options, backend)


def fused_regression(pred: Tensor, target: Tensor, **options: Any) -> Tensor:
    """Loss of a regression: :func:`fused_residual_loss` of the residual ``pred - target``.

    Args:
        pred: prediction with gradient, ``[B, ...]``; float64, float32, float16 or bfloat16.
        target: the shape of ``pred``, without gradient.
        options: the keywords of :func:`fused_residual_loss`, with ``clip``, ``scale`` and all others.

    Returns:
        As :func:`fused_residual_loss`.

    Raises:
        TypeError, ValueError: before any work, for an argument that does not fit; the message names it.
    """
    checks.state("pred", pred)
    checks.state("target", target, pred)
    return fused_residual_loss(pred, [target], pred.new_full((1, pred.shape[0]), -1, dtype=torch.float32), **options)


def _options(
    pred: Tensor,
    *,
    clip: float | None,
    metric: Metric | str,
    adaptive: AdaptiveWeight | float | None,
    **others,
) -> LossOptions:
    """The options of a call, checked."""
    return LossOptions(
        clip=math.inf if clip is None else clip,
        metric=Metric.from_value(metric),
        adaptive=AdaptiveWeight.from_value(adaptive),
        with_gradient=torch.is_grad_enabled() and (pred.requires_grad or torch._C._are_functorch_transforms_active()),
        **others,
    )


def _loss(inputs: LossInputs, options: LossOptions, backend: str | None) -> Tensor:
    """Check what both losses share and call. ``weight`` and ``normalize_scale`` come as the caller gave them."""
    pred, weight, normalize_scale = inputs.pred, inputs.weight, inputs.normalize_scale
    _check_count(inputs.terms, options)
    if weight is not None:
        inputs = inputs._replace(weight=checks.scalars("weight", weight, pred, LEARN_A_WEIGHT))
    if normalize_scale is not None:
        if options.normalize is None:
            raise ValueError("normalize_scale must be None without normalize: it multiplies the normalised residual")
        inputs = inputs._replace(normalize_scale=checks.scalars("normalize_scale", normalize_scale, pred))
    backend = backend or AUTOMATIC
    if not is_plain(pred, *inputs.terms, *inputs[2:]):
        inputs = inputs._replace(terms=[term.detach() for term in inputs.terms])
        if torch._C._are_functorch_transforms_active():
            return _ResidualLoss.call(*inputs, options, backend)[0]
        return torch.ops.rcgm_kernels.residual_loss(*inputs, *options.flat(), backend)[0]
    if options.with_gradient:
        return _PlainResidualLoss.in_one.apply(*inputs, options, backend)[0]
    with torch.no_grad():
        return _residual_loss(inputs, options, backend)[0]


def _check_count(terms: Sequence[Tensor], options: LossOptions) -> None:
    count = len(terms) + options.pred_in_residual
    if count > checks.MAX_TERMS:
        raise ValueError(f"at most {checks.MAX_TERMS} tensors can be combined, got {count}")
    if not count:
        raise ValueError("terms must not be empty when pred_coeff is 0: there is nothing to combine")


def _term_list(name: str, value: Tensor | Sequence[Tensor], pred: Tensor) -> list[Tensor]:
    if isinstance(value, Tensor):
        if value.ndim != pred.ndim + 1 or value.shape[1:] != pred.shape:
            wanted = ", ".join(str(extent) for extent in pred.shape)
            raise ValueError(f"{name} must have the shape [N, {wanted}], got {list(value.shape)}")
        value = value.unbind(0)
    elif not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"{name} must be a tensor or a sequence of tensors, got {type(value).__name__}")
    return [checks.state(f"{name}[{index}]", tensor, pred) for index, tensor in enumerate(value)]


def _residual_loss(inputs: LossInputs, options: LossOptions, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, the gradient and the scales that it is stored with."""
    return choose(backend, inputs.pred.device).residual_loss(inputs, options)


def _with_options(function: Callable[[LossInputs, LossOptions, str], object]) -> Callable[..., object]:
    """``function`` for arguments as torch passes them to an operation: all of the inputs and options, one by one."""

    @functools.wraps(function)
    def call(*arguments: object) -> object:
        count = len(LossInputs._fields)
        *flat, backend = arguments[count:]
        return function(LossInputs(*arguments[:count]), LossOptions.from_flat(*flat), backend)

    return call


def _fake_residual_loss(inputs: LossInputs, options: LossOptions, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    pred = inputs.pred
    dtype = compute_dtype(pred, *inputs.terms)
    loss = pred.new_empty(pred.shape[:1] if options.reduction == "none" else (), dtype=dtype)
    scaled = options.gradient_is_scaled(pred.dtype)
    scales = pred.new_empty(pred.shape[:1] if scaled else 0, dtype=torch.float32)
    if not options.with_gradient:
        return loss, pred.new_empty(0), scales
    return loss, torch.empty_like(pred, memory_format=torch.contiguous_format), scales


def _check_residual_loss(inputs: LossInputs, options: LossOptions, backend: str) -> None:
    pred, terms = inputs.pred, inputs.terms
    checks.state("pred", pred)
    for index, term in enumerate(terms):
        checks.state(f"terms[{index}]", term, pred)
    _check_count(terms, options)
    rows = len(terms)
    if options.times:
        segments = len(terms) - 1 - (not options.pred_in_residual)
        if segments < 0:
            raise ValueError(f"terms must end with the velocity and begin with the base if any, got {len(terms)}")
        rows = segments + 2
    for name, values in inputs.per_sample().items():
        shape = (rows, pred.shape[0]) if name == "scalars" else tuple(pred.shape[:1])
        checks.stored_scalars(name, values, shape, pred)


def _differentiable_residual_loss(
    inputs: LossInputs, options: LossOptions, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    if torch.is_grad_enabled():
        for name, values in inputs.per_sample().items():
            if values.requires_grad:
                raise ValueError(f"{name} must not require a gradient, since it would get none: detach() it")
        if inputs.pred.requires_grad and not options.with_gradient:
            raise ValueError("with_gradient must be true for a pred that requires a gradient")
    return _ResidualLoss.in_one.apply(*inputs, options, backend)[:3]


class _ResidualLoss(Differentiable):
    """The forward pass has made the gradient already; the backward pass multiplies it by the upstream one.

    The last result is empty. It belongs to the graph, so that a second derivative, which would be wrong, finds a way
    through it to its error.
    """

    @staticmethod
    def forward(*arguments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        *inputs, options, backend = arguments
        with torch._C._AutoDispatchBelowAutograd():
            results = torch.ops.rcgm_kernels.residual_loss(*inputs, *options.flat(), backend)
        return *results, results[0].new_empty(0)

    @staticmethod
    def setup_context(ctx, inputs: tuple, outputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        _, gradient, scales, handle = outputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(gradient, scales)
        ctx.save_for_backward(gradient, scales, handle)
        ctx.inputs, ctx.backend = len(inputs), inputs[-1]

    @staticmethod
    def backward(ctx, upstream: Tensor | None, *_):
        gradient, scales, handle = ctx.saved_tensors
        nothing = (None,) * (ctx.inputs - 1)
        if upstream is None:
            return (None, *nothing)
        if torch.is_grad_enabled():
            return (_OnlyOnce.call(handle, gradient, upstream, scales, ctx.backend), *nothing)
        return (_scaled(gradient, upstream, scales, ctx.backend, _graph_is_kept()), *nothing)

    @staticmethod
    def jvp(ctx, *_):
        raise RuntimeError(
            "the fused losses of rcgm_kernels have no forward-mode derivative: their gradient is that of a "
            "stop-gradient target. Use reverse mode (backward(), torch.func.grad), or plain tensor operations"
        )


class _PlainResidualLoss(_ResidualLoss):
    """For tensors that are known to need no dispatcher."""

    @staticmethod
    def forward(*arguments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        *inputs, options, backend = arguments
        results = _residual_loss(LossInputs(*inputs), options, backend)
        return *results, results[0].new_empty(0)


class _OnlyOnce(Differentiable):
    """The backward pass under ``create_graph=True``: works once, and says why it cannot be differentiated again."""

    @staticmethod
    def forward(handle: Tensor, gradient: Tensor, upstream: Tensor, scales: Tensor, backend: str) -> Tensor:
        return _scaled(gradient, upstream, scales, backend, again=True)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx, _):
        raise RuntimeError(NO_SECOND_DERIVATIVE)

    @staticmethod
    def jvp(ctx, *_):
        raise RuntimeError(NO_SECOND_DERIVATIVE)


NO_SECOND_DERIVATIVE = (
    "the fused losses of rcgm_kernels cannot be differentiated twice: their gradient is that of a stop-gradient "
    "target. Call backward() without create_graph=True, or use plain tensor operations for a double backward"
)


def _graph_is_kept() -> bool:
    """Whether the running backward pass keeps its graph (``retain_graph=True``) and may come by again."""
    return torch._C._autograd._get_current_graph_task_keep_graph()


def _scaled(gradient: Tensor, upstream: Tensor, scales: Tensor, backend: str, again: bool) -> Tensor:
    """``gradient * upstream`` without the stored scales, in place where nobody will ask for ``gradient`` again."""
    if torch._C._are_functorch_transforms_active():  # writing in place is nothing for them
        dtype = compute_dtype(gradient, upstream)
        factor = upstream.to(dtype) / scales if scales.numel() else upstream.to(dtype)
        return (gradient.to(dtype) * batched(factor, gradient)).to(gradient.dtype)
    if again or type(gradient) is not Tensor:  # a tracer's tensor: the compiler decides what to reuse
        gradient = gradient.clone()
    elif not scales.numel() and upstream.device.type == "cpu" and upstream.ndim == 0 and upstream.item() == 1:
        return gradient  # as the kernel would, but for the price of the call
    torch.ops.rcgm_kernels.scale_gradient_(gradient, upstream, scales, backend)
    return gradient


def _check_scale_gradient(gradient: Tensor, upstream: Tensor, scales: Tensor, backend: str) -> None:
    checks.state("gradient", gradient)
    checks.writable("gradient", gradient)
    if dense_samples(gradient) is not gradient:
        raise ValueError(f"gradient must have dense samples, got strides {gradient.stride()}")
    checks.dense("upstream", upstream)
    if upstream.shape not in ((), gradient.shape[:1]):
        raise ValueError(f"upstream must have the shape [] or [{gradient.shape[0]}], got {list(upstream.shape)}")
    checks.same_device("upstream", upstream, gradient)
    if scales.dtype != torch.float32 or scales.shape not in ((0,), gradient.shape[:1]):
        wanted = f"float32 of the shape [0] or [{gradient.shape[0]}]"
        raise ValueError(f"scales must be {wanted}, got {checks.names([scales.dtype])} of {list(scales.shape)}")
    checks.same_device("scales", scales, gradient)


def _scale_gradient_(gradient: Tensor, upstream: Tensor, scales: Tensor, backend: str) -> None:
    for name, other in (("upstream", upstream), ("scales", scales)):
        if gradient.device.type != "meta" and share_memory(gradient, other):
            raise ValueError(f"gradient must share no memory with {name}: it is written")
    choose(backend, gradient.device).scale_gradient_(gradient, upstream, scales.contiguous())


define(
    "residual_loss(Tensor pred, Tensor[] terms, Tensor scalars, Tensor? pred_coeff, Tensor? scale, Tensor? weight, "
    f"Tensor? normalize_scale, {LossOptions.SCHEMA}, str backend) -> (Tensor, Tensor, Tensor)",
    _with_options(_residual_loss),
    check=_with_options(_check_residual_loss),
    fake=_with_options(_fake_residual_loss),
    autograd=_with_options(_differentiable_residual_loss),
)
define(
    "scale_gradient_(Tensor(a!) gradient, Tensor upstream, Tensor scales, str backend) -> ()",
    _scale_gradient_,
    check=_check_scale_gradient,
    fake=lambda gradient, upstream, scales, backend: None,
)
