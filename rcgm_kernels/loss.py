"""The fused losses: combine, clamp, reduce, weigh and differentiate in one pass over memory."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rcgm_kernels import checks
from rcgm_kernels.backends import AUTOMATIC, ENVIRONMENT, choose
from rcgm_kernels.inputs import LossInputs
from rcgm_kernels.known import known_calls
from rcgm_kernels.library import is_plain
from rcgm_kernels.loss_operator import check_count, dispatched_residual_loss, plain_residual_loss
from rcgm_kernels.options import AdaptiveWeight, LossOptions, Metric
from rcgm_kernels.plan import LossPlan

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

    first = () if base is None else (base,)
    given = LossInputs(pred, [*first, *_listed(segments), velocity], times, None, None, weight, normalize_scale)
    kind = (
        isinstance(segments, Tensor),
        backend,
        True,
        base is None,
        clip,
        metric,
        normalize,
        adaptive,
        reduce,
        reduction,
    )
    known = _known(given, kind)
    if known is not None:
        return plain_residual_loss(*known)
    checks.state("pred", pred)
    each = _checked_terms("segments", segments, pred)
    checks.state("velocity", velocity, pred)
    if base is not None:
        checks.state("base", base, pred)
    knots = checks.rows("times", times, pred, len(each) + 2)
    return _checked_loss(given._replace(terms=[*first, *each, velocity], scalars=knots), given, kind)


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

    own = None if type(pred_coeff) in (int, float) and pred_coeff in (0, 1) else pred_coeff
    given = LossInputs(pred, _listed(terms), coeffs, own, scale, weight, normalize_scale)
    in_residual = own is not None or pred_coeff == 1
    kind = (
        isinstance(terms, Tensor),
        backend,
        False,
        in_residual,
        clip,
        metric,
        normalize,
        adaptive,
        reduce,
        reduction,
    )
    known = _known(given, kind)
    if known is not None:
        return plain_residual_loss(*known)
    checks.state("pred", pred)
    each = _checked_terms("terms", terms, pred)
    inputs = given._replace(
        terms=each,
        scalars=checks.rows("coeffs", coeffs, pred, len(each)),
        pred_coeff=None if own is None else checks.scalars("pred_coeff", own, pred),
        scale=None if scale is None else checks.scalars("scale", scale, pred),
    )
    return _checked_loss(inputs, given, kind)


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


_KNOWN = known_calls(ENVIRONMENT)
"""The plan and the backend of the calls that passed their checks.

The ``kind`` of a call is: whether the terms are a stack of tensors (one of ``LossInputs.terms``), the backend's name,
and the arguments of :meth:`LossOptions.from_arguments` but for the last.
"""


def _known(given: LossInputs, kind: tuple) -> tuple[LossInputs, LossPlan, ModuleType] | None:
    """What :func:`plain_residual_loss` takes, for inputs as the caller gave them, if such a call passed its checks."""
    known = None if torch.compiler.is_compiling() else _KNOWN.find(given, kind)
    if known is None:
        return None
    return (_unstacked(given) if kind[0] else given, *known)


def _checked_loss(inputs: LossInputs, given: LossInputs, kind: tuple) -> Tensor:
    """The loss of ``inputs``, checked but for the weights and the options; the caller gave them as ``given``."""
    pred, backend = inputs.pred, kind[1]
    with_gradient = pred.requires_grad or torch._C._are_functorch_transforms_active()
    options = LossOptions.from_arguments(*kind[2:], torch.is_grad_enabled() and with_gradient)
    check_count(inputs.terms, options)
    inputs = inputs._replace(**_checked_weights(inputs, options))
    if not is_plain(pred, *inputs.terms, *inputs[2:]):
        return dispatched_residual_loss(inputs, options, backend or AUTOMATIC)
    plan, chosen = LossPlan.of(inputs, options), choose(backend, pred.device)
    if all(map(operator.is_, inputs[2:], given[2:])):  # nothing was converted
        _KNOWN.remember(given, kind, (plan, chosen))
    return plain_residual_loss(inputs, plan, chosen)


def _checked_weights(inputs: LossInputs, options: LossOptions) -> dict[str, Tensor]:
    """The numbers that both losses multiply by, of those that are given."""
    checked = {}
    if inputs.weight is not None:
        checked["weight"] = checks.scalars("weight", inputs.weight, inputs.pred, LEARN_A_WEIGHT)
    if inputs.normalize_scale is not None:
        if options.normalize is None:
            given = type(inputs.normalize_scale).__name__
            raise ValueError(
                f"normalize_scale must be None without normalize, got {given}: it multiplies the normalised residual"
            )
        checked["normalize_scale"] = checks.scalars("normalize_scale", inputs.normalize_scale, inputs.pred)
    return checked


def _listed(terms: object) -> Sequence[object]:
    """Terms as they are given, a stack of them as one."""
    return terms if type(terms) in (list, tuple) else [terms]


def _unstacked(inputs: LossInputs) -> LossInputs:
    each = [term.unbind(0) if term.ndim > inputs.pred.ndim else (term,) for term in inputs.terms]
    return inputs._replace(terms=[*itertools.chain(*each)])


def _checked_terms(name: str, value: object, pred: Tensor) -> list[Tensor]:
    if isinstance(value, Tensor):
        if value.ndim != pred.ndim + 1 or value.shape[1:] != pred.shape:
            wanted = ", ".join(str(extent) for extent in pred.shape)
            raise ValueError(f"{name} must have the shape [N, {wanted}], got {list(value.shape)}")
        value = value.unbind(0)
    elif not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"{name} must be a tensor or a sequence of tensors, got {type(value).__name__}")
    return [checks.state(f"{name}[{index}]", tensor, pred) for index, tensor in enumerate(value)]
