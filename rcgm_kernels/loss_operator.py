"""The fused loss as an operation of torch: registration, and what autograd does with it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor

from rcgm_kernels import checks
from rcgm_kernels.backends import choose
from rcgm_kernels.inputs import LossInputs
from rcgm_kernels.layout import batched, compute_dtype, has_dense_samples, share_memory
from rcgm_kernels.library import Differentiable, apply_plain, define, is_plain
from rcgm_kernels.options import LossOptions
from rcgm_kernels.plan import LossPlan, Results, new_results


def dispatched_residual_loss(inputs: LossInputs, options: LossOptions, backend: str) -> Tensor:
    """The loss of checked inputs, by way of torch's dispatcher, with its gradient to ``inputs.pred``."""
    inputs = inputs._replace(terms=[term.detach() for term in inputs.terms])
    if torch._C._are_functorch_transforms_active():
        return _ResidualLoss.call(*inputs, options, backend)[0]
    return torch.ops.rcgm_kernels.residual_loss(*inputs, *options.flat(), backend)[0]


def plain_residual_loss(inputs: LossInputs, plan: LossPlan, backend: ModuleType) -> Tensor:
    """The same without the dispatcher, where it can be bypassed (:func:`rcgm_kernels.library.is_plain`)."""
    if plan.options.with_gradient:
        return _plain_residual_loss(inputs.pred, inputs, plan, backend)[0]
    return backend.residual_loss(inputs, plan)[0]


def check_count(terms: Sequence[Tensor], options: LossOptions) -> None:
    """Check how many tensors are combined."""
    count = len(terms) + options.pred_in_residual
    if count > checks.MAX_TERMS:
        most = f"tensors of the combination must be at most {checks.MAX_TERMS}"
        raise ValueError(f"{most}, got {count}: leave out terms or segments")
    if not count:
        raise ValueError("terms must not be empty where pred_coeff is 0, got []: there is nothing to combine")


def _residual_loss(inputs: LossInputs, options: LossOptions, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, the gradient and the scales that it is stored with; empty where there are none."""
    results = choose(backend, inputs.pred.device).residual_loss(inputs, LossPlan.of(inputs, options))
    return _without_none(results, inputs.pred)


def _without_none(results: Results, pred: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    loss, gradient, scales = results
    gradient = pred.new_empty(0) if gradient is None else gradient
    return loss, gradient, pred.new_empty(0, dtype=torch.float32) if scales is None else scales


def _with_options(function: Callable[[LossInputs, LossOptions, str], object]) -> Callable[..., object]:
    """``function`` for arguments as torch passes them to an operation: all of the inputs and options, one by one."""

    @functools.wraps(function)
    def call(*arguments: object) -> object:
        count = len(LossInputs._fields)
        *flat, backend = arguments[count:]
        return function(LossInputs(*arguments[:count]), LossOptions.from_flat(*flat), backend)

    return call


def _fake_residual_loss(inputs: LossInputs, options: LossOptions, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    # Not by way of a plan, which would make a graph of torch.compile depend on sizes and strides.
    results = new_results(inputs.pred, compute_dtype(inputs.pred, *inputs.terms), options)
    return _without_none(results, inputs.pred)


def _check_residual_loss(inputs: LossInputs, options: LossOptions, backend: str) -> None:
    pred, terms = inputs.pred, inputs.terms
    checks.state("pred", pred)
    for index, term in enumerate(terms):
        checks.state(f"terms[{index}]", term, pred)
    check_count(terms, options)
    rows = len(terms)
    if options.times:
        segments = len(terms) - 1 - (not options.pred_in_residual)
        if segments < 0:
            raise ValueError(
                f"terms must be the base if it is not pred, the segments and the velocity, got {len(terms)} tensors"
            )
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
            raise ValueError("with_gradient must be True for a pred that requires a gradient, got False")
    return _ResidualLoss.in_one.apply(*inputs, options, backend)[:3]


class _ResidualLoss(Differentiable):
    """The forward pass has made the gradient already; the backward pass multiplies it by the upstream one.

    The last result is empty and part of the graph. A second derivative, which would be wrong, reaches its error through
    it.
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
        return (_pulled_back(gradient, scales, handle, upstream, ctx.backend), *[None] * (ctx.inputs - 1))

    @staticmethod
    def jvp(ctx, *_):
        raise RuntimeError(
            "the fused losses of rcgm_kernels have no forward-mode derivative: their gradient is that of a "
            "stop-gradient target. Use reverse mode (backward(), torch.func.grad), or plain tensor operations"
        )


class _PlainResidualLoss(torch.autograd.Function):
    """The same for calls that bypass the dispatcher, with as little Python as possible.

    Here the gradient is the result that is part of the graph.
    """

    @staticmethod
    def forward(ctx, pred: Tensor, inputs: LossInputs, plan: LossPlan, backend: ModuleType) -> tuple[Tensor, Tensor]:
        loss, gradient, scales = backend.residual_loss(inputs, plan)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gradient, scales)
        ctx.backend = backend.NAME
        return loss, gradient

    @staticmethod
    def backward(ctx, upstream: Tensor | None, _):
        handle, scales = ctx.saved_tensors
        return _pulled_back(handle.detach(), scales, handle, upstream, ctx.backend), None, None, None


_plain_residual_loss = apply_plain(_PlainResidualLoss)


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
    """True if the running backward pass keeps its graph (``retain_graph=True``) and may run again."""
    return torch._C._autograd._get_current_graph_task_keep_graph()


def _pulled_back(
    gradient: Tensor, scales: Tensor | None, handle: Tensor, upstream: Tensor | None, backend: str
) -> Tensor | None:
    """The gradient to the prediction; ``handle`` is what a second derivative reaches its error through."""
    if upstream is None:
        return None
    if torch.is_grad_enabled():
        return _OnlyOnce.call(handle, gradient, upstream, scales, backend)
    return _scaled(gradient, upstream, scales, backend, _graph_is_kept())


def _scaled(gradient: Tensor, upstream: Tensor, scales: Tensor | None, backend: str, again: bool) -> Tensor:
    """``gradient * upstream`` without the stored scales, in place where nobody will ask for ``gradient`` again."""
    scales = gradient.new_empty(0, dtype=torch.float32) if scales is None else scales
    if torch._C._are_functorch_transforms_active():  # they cannot write in place
        dtype = compute_dtype(gradient, upstream)
        factor = upstream.to(dtype) / scales if scales.numel() else upstream.to(dtype)
        return (gradient.to(dtype) * batched(factor, gradient)).to(gradient.dtype)
    if again or type(gradient) is not Tensor:  # a tracer's tensor: the compiler decides what to reuse
        gradient = gradient.clone()
    if is_plain(gradient, upstream, scales):
        choose(backend, gradient.device).scale_gradient_(gradient, upstream, scales)
    else:
        torch.ops.rcgm_kernels.scale_gradient_(gradient, upstream, scales, backend)
    return gradient


def _check_scale_gradient(gradient: Tensor, upstream: Tensor, scales: Tensor, backend: str) -> None:
    checks.state("gradient", gradient)
    checks.writable("gradient", gradient)
    if not has_dense_samples(gradient):
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
