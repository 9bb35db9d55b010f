"""The losses of the kernel benchmark at one size, each beside the same thing in torch.

Our variant is the very call that the objectives of ``rcgm`` make in a training step, with the options of the published
configurations: the loss of each sample, weighted by 1/B in float64, and their sum.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import rcgm_kernels
from benchmarks.kernel_cases import Case, Shape, backends
from rcgm_kernels import AdaptiveWeight, Metric

METRICS = {
    "pseudo-Huber": Metric("pseudo_huber"),
    "Barron": Metric("barron", alpha=0.0),
    "Barron reweighting": Metric("barron_reweighting", alpha=0.0),
    "cosine over channels": Metric(cosine=1.0),
    "cosine over samples": Metric(cosine=1.0, cosine_dim="sample"),
}
"""Metrics that are timed beside plain L2."""
L2 = Metric()


def loss_case(
    shape: Shape, dtype: torch.dtype, device: torch.device, order: int = 2, metric_name: str | None = None
) -> Case:
    """``fused_loss`` with its backward pass: N + 2 tensors are read and one gradient is written.

    With a metric of ``METRICS`` our L2 is timed too.
    """
    elements, metric = math.prod(shape), L2 if metric_name is None else METRICS[metric_name]
    operation = f"fused_loss, order {order}" if metric_name is None else f"fused_loss, {metric_name}"
    case = Case(operation, shape, str(dtype)[6:], (order + 3) * elements * dtype.itemsize,
                elements * dtype.itemsize, backends(device))  # fmt: skip
    eager = functools.partial(eager_loss, metric=metric)
    compiled = torch.compile(eager, dynamic=False)
    for _ in range(case.sets):
        pred = torch.randn(shape, device=device, dtype=dtype).requires_grad_()
        segments = [torch.randn(shape, device=device, dtype=dtype) for _ in range(order)]
        velocity = torch.randn(shape, device=device, dtype=dtype)
        t = torch.rand(shape[0], device=device) * 0.9 + 0.05
        # with no segment the one gap is the whole interval
        start = t - 0.01 if order else torch.zeros_like(t)
        times = torch.cat([t[None], start * torch.linspace(1, 0, order + 1, device=device)[:, None]])

        def step(loss: Callable[..., Tensor], pred=pred, segments=segments, velocity=velocity, times=times) -> None:
            pred.grad = None
            loss(pred, segments, velocity, times).backward()

        weight = torch.full((shape[0],), 1 / shape[0], dtype=torch.float64, device=device)
        for backend in case.ours:
            ours = functools.partial(trained_loss, weight=weight, backend=backend)
            case.add(backend, lambda step=step, ours=ours: step(functools.partial(ours, metric=metric)))
            if metric_name is not None:
                case.add(f"l2 {backend}", lambda step=step, ours=ours: step(ours))
        case.add("eager", lambda step=step: step(eager))
        case.add("compile", lambda step=step: step(compiled))
        if metric_name is None:
            case.add("published", lambda step=step: step(published_loss))
    return case


def trained_loss(
    pred: Tensor,
    segments: list[Tensor],
    velocity: Tensor,
    times: Tensor,
    *,
    weight: Tensor,
    metric: Metric = L2,
    backend: str | None = None,
) -> Tensor:
    """The loss as RCGM calls it."""
    losses = rcgm_kernels.fused_loss(
        pred, segments, velocity, times, weight=weight, metric=metric, reduction="none", backend=backend
    )  # fmt: skip
    return losses.sum()


def eager_loss(pred: Tensor, segments: list[Tensor], velocity: Tensor, times: Tensor, *, metric: Metric = L2) -> Tensor:
    """The loss as a training loop writes it: math.md section 2 in float32, with autograd."""
    pred, target = _prediction_and_target(pred, segments, velocity, times, torch.float32)
    return (pred - target).square().mean() if metric == L2 else _losses(pred, target, metric).mean()


def published_loss(pred: Tensor, segments: list[Tensor], velocity: Tensor, times: Tensor) -> Tensor:
    """The loss as published loops have it: in float64, the generator's state set back before every segment's forward.

    The forwards themselves are not here, so a step pays for the states on its host while the device works.
    """
    cuda = pred.device.type == "cuda"
    state = torch.cuda.get_rng_state(pred.device) if cuda else torch.get_rng_state()
    for _ in segments:
        if cuda:
            torch.cuda.set_rng_state(state, pred.device)
        else:
            torch.set_rng_state(state)
    pred, target = _prediction_and_target(pred, segments, velocity, times, torch.float64)
    return (pred - target).square().mean()


def _prediction_and_target(
    pred: Tensor, segments: list[Tensor], velocity: Tensor, times: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    def per_sample(values: Tensor) -> Tensor:
        return values.to(dtype).reshape(-1, *[1] * (pred.ndim - 1))

    base = pred.detach().to(dtype)
    estimate = per_sample(times[0] - times[-1]) * base
    for i, segment in enumerate(segments, 1):
        estimate = estimate - per_sample(times[i] - times[i + 1]) * segment.to(dtype)
    residual = (estimate / per_sample(times[0] - times[1]) - velocity.to(dtype)).clamp(-1, 1)
    return pred.to(dtype), base - residual


def _losses(pred: Tensor, target: Tensor, metric: Metric, reduce: str = "mean") -> Tensor:
    """The loss of each sample; the two of Barron with shape 0."""
    squares = (pred - target).square().flatten(1)
    losses = squares.sum(1) if reduce == "sum" else squares.mean(1)
    if metric.name == "pseudo_huber":
        losses = (losses + metric.c**2).sqrt() - metric.c
    elif metric.name == "barron":
        losses = (losses / (2 * metric.c**2)).log1p()
    elif metric.name == "barron_reweighting":
        losses = losses / (losses.detach() / (2 * (metric.c**2 + 1e-8)) + 1) / metric.c
    if metric.cosine:
        of_channels = metric.cosine_dim == "channels"
        pair = (pred, target) if of_channels else (pred.flatten(1), target.flatten(1))
        direction = 1 - F.cosine_similarity(*pair, dim=1)
        losses = losses + metric.cosine * direction.reshape(pred.shape[0], -1).mean(1)
    return losses


@dataclass(frozen=True)
class Form:
    """How an objective calls ``fused_residual_loss``.

    Args:
        terms: how many there are beside the prediction.
        options: that are not tensors.
        scaled: whether there is a scale for each sample.
        pred_coeff: number format of the prediction's coefficients; None where they are 1.
    """

    terms: int
    options: Mapping[str, Any]
    scaled: bool = False
    pred_coeff: torch.dtype | None = torch.float64


FORMS = {
    "MeanFlow": Form(2, {"reduce": "sum", "adaptive": AdaptiveWeight(1.0, 0.01)}, pred_coeff=None),
    "TiM": Form(6, {"metric": Metric(cosine=1.0), "adaptive": AdaptiveWeight(1.0, 1e-5, of="loss")}),
    "UCGM, ratio 1": Form(4, {"clip": 1.0, "metric": Metric("pseudo_huber", c=5.0)}, scaled=True),
    "UCGM, ratio 0": Form(2, {"metric": Metric("pseudo_huber", c=0.0, cosine=1.0)}, pred_coeff=torch.float32),
}
"""Of the configurations imagenet256_mean_flow, tim, ucgm_tuned and ucgm."""


@dataclass(frozen=True)
class Combined:
    """The tensors of one call of ``fused_residual_loss``."""

    pred: Tensor
    terms: list[Tensor]
    coeffs: Tensor
    pred_coeff: Tensor | float
    scale: Tensor | None
    weight: Tensor

    @classmethod
    def drawn(cls, form: Form, shape: Shape, dtype: torch.dtype, device: torch.device) -> Combined:
        pred, *terms = (torch.randn(shape, device=device, dtype=dtype) for _ in range(form.terms + 1))
        batch = shape[0]
        return cls(
            pred.requires_grad_(),
            terms,
            torch.randn(form.terms, batch, device=device),
            1.0 if form.pred_coeff is None else torch.rand(batch, device=device, dtype=form.pred_coeff) + 0.5,
            torch.rand(batch, device=device) + 0.5 if form.scaled else None,
            torch.full((batch,), 1 / batch, dtype=torch.float64, device=device),
        )


def residual_case(shape: Shape, dtype: torch.dtype, device: torch.device, name: str = "MeanFlow") -> Case:
    """``fused_residual_loss`` with its backward pass: the prediction and K terms are read, one gradient is written."""
    form, elements = FORMS[name], math.prod(shape)
    case = Case(f"fused_residual_loss, {name}", shape, str(dtype)[6:], (form.terms + 2) * elements * dtype.itemsize,
                elements * dtype.itemsize, backends(device))  # fmt: skip
    compiled = torch.compile(eager_residual_loss, dynamic=False)
    for _ in range(case.sets):
        call = Combined.drawn(form, shape, dtype, device)

        def step(loss: Callable[..., Tensor], call=call, **options: Any) -> None:
            call.pred.grad = None
            loss(call, form, **options).backward()

        for backend in case.ours:
            case.add(backend, lambda step=step, backend=backend: step(trained_residual_loss, backend=backend))
        case.add("eager", lambda step=step: step(eager_residual_loss))
        case.add("compile", lambda step=step: step(compiled))
    return case


def trained_residual_loss(call: Combined, form: Form, *, backend: str | None = None) -> Tensor:
    """The loss as the objectives call it."""
    losses = rcgm_kernels.fused_residual_loss(
        call.pred, call.terms, call.coeffs, pred_coeff=call.pred_coeff, scale=call.scale, weight=call.weight,
        reduction="none", backend=backend, **form.options,
    )  # fmt: skip
    return losses.sum()


def eager_residual_loss(call: Combined, form: Form) -> Tensor:
    """The loss as a training loop writes it: math.md section 3 in float32, with autograd."""
    options, pred = form.options, call.pred.float()

    def per_sample(values: Tensor) -> Tensor:
        return values.float().reshape(-1, *[1] * (pred.ndim - 1))

    coeff = call.pred_coeff if isinstance(call.pred_coeff, float) else per_sample(call.pred_coeff)
    residual = coeff * pred.detach()
    for coeff, term in zip(call.coeffs, call.terms, strict=True):
        residual = residual + per_sample(coeff) * term.float()
    if "clip" in options:
        residual = residual.clamp(-options["clip"], options["clip"])
    if call.scale is not None:
        residual = per_sample(call.scale) * residual
    target = pred.detach() - residual
    losses = _losses(pred, target, options.get("metric", L2), options.get("reduce", "mean"))
    adaptive = options.get("adaptive")
    if adaptive is not None:
        size = losses if adaptive.of == "loss" else (pred - target).square().flatten(1).sum(1)
        losses = losses / (size.detach() + adaptive.eps) ** adaptive.power
    return (losses * call.weight.float()).sum()
