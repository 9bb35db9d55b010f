"""The fused losses: combine, clamp, reduce, weigh and differentiate in one pass over memory."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rcgm_kernels import checks
from rcgm_kernels.backends import AUTOMATIC, choose
from rcgm_kernels.layout import compute_dtype, sample_size
from rcgm_kernels.library import define, is_plain
from rcgm_kernels.options import AdaptiveWeight, LossOptions, Metric

TENSORS = 4  # per-sample numbers that the operation takes before its options


def fused_loss(
    pred: Tensor,
    segments: Tensor | Sequence[Tensor],
    velocity: Tensor,
    times: Tensor,
    *,
    base: Tensor | None = None,
    clip: float | None = 1.0,
    metric: Metric | str = "l2",
    normalize: float | None = None,
    weight: Tensor | None = None,
    adaptive: AdaptiveWeight | float | None = None,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """Loss of the N-th order recursive residual (RCGM, equations 7 to 9; math.md section 2).

    With ``dt = t_0 - t_1``, ``t = t_0`` and ``r = t_{N+1}``::

        zeta = (1/dt) [ (t - r) base - sum_i (t_i - t_{i+1}) segments[i] ] - velocity
        R    = clamp(zeta, -clip, clip)
        loss = reduction over samples of  weight * rho(mean_D(R^2))

    and the gradient to ``pred`` is that of ``rho(mean_D((pred - stop_gradient(pred - R))^2))``. Where ``t_1 = r``
    (also at ``t = r``) the residual is ``base - velocity``: flow matching. Each input is read once and the gradient is
    written in the same pass; arithmetic is float32, or float64 if any input is.

    Args:
        pred: ``F(x_t, t, r)`` with gradient, ``[B, ...]``; float64, float32, float16 or bfloat16, as all tensors here.
        segments: ``F-(x_{t_i}, t_i, t_{i+1})`` for ``i = 1..N``: ``[N, B, ...]`` or a sequence of N tensors ``[B,
            ...]``, N from 0 to 30. Views with dense samples (slices of a batched forward) are read where they are. A
            segment of length 0 is not read.
        velocity: ``v_t``, ``[B, ...]``.
        times: the knots ``t_0 > t_1 >= ... >= t_{N+1}``, ``[N+2, B]``, float32 or float64. On a CPU their order is
            checked; elsewhere a sample with unordered knots gives NaN, and no other sample does.
        base: ``F(x_t, t, r)`` inside ``zeta``; None takes ``pred`` without gradient.
        clip: bound of the clamp, ``> 0``; None for no clamp.
        metric: ``"l2"``, ``"pseudo_huber"``, ``"barron"`` or a :class:`Metric`.
        normalize: as in :func:`fused_residual_loss`.
        weight: per-sample weight ``[B]``, without gradient.
        adaptive: an :class:`AdaptiveWeight`, or its power.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (``[B]``).
        backend: ``"cuda"``, ``"triton"``, ``"cpu"`` or ``"reference"``; None chooses by device or by ``RCGM_BACKEND``.

    Returns:
        The loss, float32 (float64 for float64 input): a scalar, or ``[B]`` for ``reduction="none"``.

    Raises:
        TypeError, ValueError: before any work, for an argument that does not fit; the message names it.
    """
    checks.state("pred", pred)
    segments = _term_list("segments", segments, pred)
    checks.state("velocity", velocity, pred)
    if base is not None:
        checks.state("base", base, pred)
    times = checks.scalars("times", times, (len(segments) + 2, pred.shape[0]), pred)
    terms = [*([] if base is None else [base]), *segments, velocity]
    options = _options(
        pred, clip=clip, metric=metric, normalize=normalize, adaptive=adaptive, reduction=reduction, times=True,
        pred_in_residual=base is None,
    )  # fmt: skip
    return _loss(pred, terms, times, None, None, weight, options, backend)


def fused_residual_loss(
    pred: Tensor,
    terms: Tensor | Sequence[Tensor],
    coeffs: Tensor,
    *,
    pred_coeff: Tensor | float = 1.0,
    clip: float | None = None,
    scale: Tensor | None = None,
    metric: Metric | str = "l2",
    normalize: float | None = None,
    weight: Tensor | None = None,
    adaptive: AdaptiveWeight | float | None = None,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """Loss of a linear combination of network outputs: the one form of every few-step objective (math.md section 3).

    ::

        R    = scale * clamp(pred_coeff * pred + sum_k coeffs[k] * terms[k], -clip, clip)
        R    = R / (|R| + normalize)                                  if normalize is given (tangent normalisation, sCM)
        loss = reduction over samples of  weight * adaptive * (rho(mean_D(R^2)) + cosine (1 - cos(pred, pred - R)))

    The gradient to ``pred`` is as if ``dR/dpred = 1``: that of a regression on the target ``stop_gradient(pred - R)``.
    Nothing else gets a gradient. Each input is read once and the gradient is written in the same pass; arithmetic is
    float32, or float64 if any input is. A term whose coefficient is 0 in a sample is not read there and may hold
    anything.

    Args:
        pred: prediction with gradient, ``[B, ...]``; float64, float32, float16 or bfloat16, as all tensors here.
        terms: ``[K, B, ...]`` or a sequence of K tensors ``[B, ...]``, K from 0 to 32 (one less if ``pred_coeff`` is
            not 0).
        coeffs: ``[K, B]``, float32 or float64.
        pred_coeff: ``[B]``, float32 or float64, or one number for all samples.
        clip: bound of the clamp, ``> 0``; None for no clamp.
        scale: ``[B]``, applied after the clamp.
        metric: ``"l2"``, ``"pseudo_huber"``, ``"barron"`` or a :class:`Metric`.
        normalize: constant ``>= 0`` of the tangent normalisation (0.1 in sCM); it cannot be had with a cosine term,
            since a normalised tangent has no target to compare the prediction with.
        weight, adaptive, reduction, backend: as in :func:`fused_loss`.

    Returns:
        The loss, float32 (float64 for float64 input): a scalar, or ``[B]`` for ``reduction="none"``.

    Raises:
        TypeError, ValueError: before any work, for an argument that does not fit; the message names it.
    """
    checks.state("pred", pred)
    terms = _term_list("terms", terms, pred)
    batch = pred.shape[0]
    coeffs = checks.scalars("coeffs", coeffs, (len(terms), batch), pred)
    if isinstance(pred_coeff, Tensor):
        pred_coeff = checks.scalars("pred_coeff", pred_coeff, (batch,), pred)
        pred_in_residual = True
    elif isinstance(pred_coeff, (int, float)) and not isinstance(pred_coeff, bool):
        pred_in_residual = pred_coeff != 0
        if pred_in_residual and pred_coeff != 1:
            pred_coeff = coeffs.new_full((batch,), float(pred_coeff))
        else:
            pred_coeff = None
    else:
        raise TypeError(f"pred_coeff must be a tensor or a number, got {type(pred_coeff).__name__}")
    if scale is not None:
        scale = checks.scalars("scale", scale, (batch,), pred)
    if not terms and not pred_in_residual:
        raise ValueError("terms must not be empty when pred_coeff is 0: there is nothing to combine")
    options = _options(
        pred, clip=clip, metric=metric, normalize=normalize, adaptive=adaptive, reduction=reduction, times=False,
        pred_in_residual=pred_in_residual,
    )  # fmt: skip
    return _loss(pred, terms, coeffs, pred_coeff, scale, weight, options, backend)


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
        with_gradient=torch.is_grad_enabled() and pred.requires_grad,
        **others,
    )


def _loss(
    pred: Tensor,
    terms: list[Tensor],
    scalars: Tensor,
    pred_coeff: Tensor | None,
    scale: Tensor | None,
    weight: Tensor | None,
    options: LossOptions,
    backend: str | None,
) -> Tensor:
    """The checks and the call that both losses share."""
    if len(terms) + options.pred_in_residual > checks.MAX_TERMS:
        raise ValueError(
            f"at most {checks.MAX_TERMS} tensors can be combined, got {len(terms) + options.pred_in_residual}"
        )
    if weight is not None:
        weight = checks.scalars("weight", weight, (pred.shape[0],), pred)
    inputs, backend = (pred, terms, scalars, pred_coeff, scale, weight), backend or AUTOMATIC
    if not is_plain(pred, *terms):
        inputs = (pred, [term.detach() for term in terms], *inputs[2:])
        return torch.ops.rcgm_kernels.residual_loss(*inputs, *options.flat(), backend)[0]
    if options.with_gradient:
        return _ResidualLoss.apply(*inputs, options, backend)[0]
    with torch.no_grad():
        return _residual_loss(*inputs, options, backend)[0]


def _term_list(name: str, value: Tensor | Sequence[Tensor], pred: Tensor) -> list[Tensor]:
    if isinstance(value, Tensor):
        if value.ndim != pred.ndim + 1 or value.shape[1:] != pred.shape:
            wanted = ", ".join(str(extent) for extent in pred.shape)
            raise ValueError(f"{name} must have the shape [N, {wanted}], got {list(value.shape)}")
        value = value.unbind(0)
    elif not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"{name} must be a tensor or a sequence of tensors, got {type(value).__name__}")
    return [checks.state(f"{name}[{index}]", tensor, pred) for index, tensor in enumerate(value)]


def _storage_scale(pred: Tensor, reduction: str) -> float:
    """What the stored gradient is multiplied by, so that float16 can hold it.

    A gradient of size ``1 / (D B)`` would vanish in float16 before a gradient scaler's factor reaches it, so it is
    stored without that factor, which the backward pass applies in float32 together with the upstream gradient. It is
    made a power of two, the largest up to ``D B``: applying that does not round a second time.
    """
    if pred.dtype != torch.float16:
        return 1.0
    shares = max(sample_size(pred), 1) * (max(pred.shape[0], 1) if reduction == "mean" else 1)
    return float(1 << (shares.bit_length() - 1))


def _residual_loss(
    pred: Tensor,
    terms: list[Tensor],
    scalars: Tensor,
    pred_coeff: Tensor | None,
    scale: Tensor | None,
    weight: Tensor | None,
    options: LossOptions,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return choose(backend, pred.device).residual_loss(
        pred, terms, scalars, pred_coeff, scale, weight, options, _storage_scale(pred, options.reduction)
    )


def _with_options(function: Callable[..., object]) -> Callable[..., object]:
    """``function``, taking the options as an operation of torch is given them: as plain values before the backend."""

    @functools.wraps(function)
    def call(pred: Tensor, terms: list[Tensor], *rest) -> object:
        *numbers, backend = rest
        inputs, flat = numbers[:TENSORS], numbers[TENSORS:]
        return function(pred, terms, *inputs, LossOptions.from_flat(*flat), backend)

    return call


def _fake_residual_loss(pred: Tensor, terms: list[Tensor], *others) -> tuple[Tensor, Tensor]:
    *_, options, _ = others
    loss = pred.new_empty(pred.shape[:1] if options.reduction == "none" else (), dtype=compute_dtype(pred, *terms))
    if not options.with_gradient:
        return loss, pred.new_empty(0)
    return loss, torch.empty_like(pred, memory_format=torch.contiguous_format)


class _ResidualLoss(torch.autograd.Function):
    """The forward pass has made the gradient already; the backward pass multiplies it by the upstream one."""

    @staticmethod
    def forward(ctx, pred: Tensor, *arguments) -> tuple[Tensor, Tensor]:
        *inputs, options, backend = arguments
        if is_plain(pred, *inputs[0]):
            loss, gradient = _residual_loss(pred, *arguments)
        else:
            with torch._C._AutoDispatchBelowAutograd():
                loss, gradient = torch.ops.rcgm_kernels.residual_loss(pred, *inputs, *options.flat(), backend)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(gradient)
        ctx.save_for_backward(gradient)
        ctx.inputs, ctx.reduction, ctx.backend = 1 + len(arguments), options.reduction, backend
        return loss, gradient

    @staticmethod
    def backward(ctx, upstream: Tensor | None, _):
        (gradient,) = ctx.saved_tensors
        nothing = (None,) * (ctx.inputs - 1)
        if upstream is None:
            return (None, *nothing)
        if torch.is_grad_enabled():
            handle = torch.empty(
                0, requires_grad=True
            )  # so that the error comes even where nothing else needs a gradient
            return (_OnlyOnce.apply(handle, gradient, upstream, ctx.reduction, ctx.backend), *nothing)
        return (_scaled(gradient, upstream, ctx.reduction, ctx.backend, _graph_is_kept()), *nothing)


class _OnlyOnce(torch.autograd.Function):
    """The backward pass under ``create_graph=True``: works once, and says why it cannot be differentiated again."""

    @staticmethod
    def forward(ctx, handle: Tensor, gradient: Tensor, upstream: Tensor, reduction: str, backend: str) -> Tensor:
        return _scaled(gradient, upstream, reduction, backend, again=True)

    @staticmethod
    def backward(ctx, _):
        raise RuntimeError(
            "the fused losses of rcgm_kernels cannot be differentiated twice: their gradient is that of a "
            "stop-gradient target. Call backward() without create_graph=True, or use plain tensor operations "
            "for a double backward"
        )


def _graph_is_kept() -> bool:
    """Whether the running backward pass keeps its graph (``retain_graph=True``) and may come by again."""
    return torch._C._autograd._get_current_graph_task_keep_graph()


def _scaled(gradient: Tensor, upstream: Tensor, reduction: str, backend: str, again: bool) -> Tensor:
    """``gradient * upstream`` without the storage scale, in place where nobody will ask for ``gradient`` again."""
    if again or type(gradient) is not Tensor:  # a tracer's tensor: the compiler decides what to reuse
        gradient = gradient.clone()
    elif (
        upstream.device.type == "cpu" and upstream.ndim == 0 and upstream.item() == _storage_scale(gradient, reduction)
    ):
        return gradient  # as the kernel would, but for the price of the call
    torch.ops.rcgm_kernels.scale_gradient_(gradient, upstream, reduction, backend)
    return gradient


def _scale_gradient_(gradient: Tensor, upstream: Tensor, reduction: str, backend: str) -> None:
    choose(backend, gradient.device).scale_gradient_(gradient, upstream, _storage_scale(gradient, reduction))


define(
    "residual_loss(Tensor pred, Tensor[] terms, Tensor scalars, Tensor? pred_coeff, Tensor? scale, Tensor? weight, "
    f"{LossOptions.SCHEMA}, str backend) -> (Tensor, Tensor)",
    _with_options(_residual_loss),
    fake=_with_options(_fake_residual_loss),
    autograd=_with_options(_ResidualLoss.apply),
)
define(
    "scale_gradient_(Tensor(a!) gradient, Tensor upstream, str reduction, str backend) -> ()",
    _scale_gradient_,
    fake=lambda gradient, upstream, reduction, backend: None,
)
