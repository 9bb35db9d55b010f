"""The operations of the kernel benchmark at one size, each beside the same thing in torch.

A side is a list of works, one for each set of tensors: several sets, together larger than the last-level cache, are
worked on in turn, as in a training step, where the network's activations have swept the cache before.

Our side of a loss is the very call that the objectives of ``rcgm`` make in a training step, with the options of the
published configurations: the loss of each sample, weighted by 1/B in float64, and their sum.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import rcgm_kernels
from rcgm.models import DiT
from rcgm_kernels import AdaptiveWeight, Metric

CACHE_BYTES = 192 * 2**20
MOST_SETS = 64
"""Of tiny samples no number of sets that anybody would wait for is larger than the cache."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One operation at one size.

    Args:
        bytes_moved: each input read once, each output written once.
        term_bytes: of one tensor of samples; allocations of that size are counted.
        sides: ``"eager"``, ``"compile"`` and others, with our own by the names of their backends, ``ours``.
    """

    operation: str
    shape: Shape
    dtype: str
    bytes_moved: int
    term_bytes: int
    ours: tuple[str, ...]
    sides: dict[str, list[Callable[[], object]]] = field(default_factory=dict)

    @property
    def sets(self) -> int:
        return min(MOST_SETS, max(2, math.ceil(CACHE_BYTES / self.bytes_moved)))

    def add(self, name: str, work: Callable[[], object]) -> None:
        self.sides.setdefault(name, []).append(work)


def backends(device: torch.device) -> tuple[str, ...]:
    """Our backends for the device, those that can run."""
    from rcgm_kernels.backends import BACKENDS

    names = ("cuda", "triton") if device.type == "cuda" else ("cpu",)
    return tuple(name for name in names if BACKENDS[name].unavailable() is None)


def loss_case(shape: Shape, dtype: torch.dtype, device: torch.device, order: int = 2) -> Case:
    """``fused_loss`` with its backward pass: N + 2 tensors are read and one gradient is written."""
    elements = math.prod(shape)
    case = Case(f"fused_loss, order {order}", shape, str(dtype)[6:], (order + 3) * elements * dtype.itemsize,
                elements * dtype.itemsize, backends(device))  # fmt: skip
    compiled = torch.compile(eager_loss, dynamic=False)
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
            case.add(backend, lambda step=step, ours=ours: step(ours))
        case.add("eager", lambda step=step: step(eager_loss))
        case.add("compile", lambda step=step: step(compiled))
        case.add("published", lambda step=step: step(published_loss))
    return case


def trained_loss(
    pred: Tensor, segments: list[Tensor], velocity: Tensor, times: Tensor, *, weight: Tensor, backend: str | None = None
) -> Tensor:
    """The loss as RCGM calls it."""
    losses = rcgm_kernels.fused_loss(
        pred, segments, velocity, times, weight=weight, reduction="none", backend=backend
    )  # fmt: skip
    return losses.sum()


def eager_loss(pred: Tensor, segments: list[Tensor], velocity: Tensor, times: Tensor) -> Tensor:
    """The loss as a training loop writes it: math.md section 2 in float32, with autograd."""
    return _loss(pred, segments, velocity, times, torch.float32)


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
    return _loss(pred, segments, velocity, times, torch.float64)


def _loss(pred: Tensor, segments: list[Tensor], velocity: Tensor, times: Tensor, dtype: torch.dtype) -> Tensor:
    def per_sample(values: Tensor) -> Tensor:
        return values.to(dtype).reshape(-1, *[1] * (pred.ndim - 1))

    base = pred.detach().to(dtype)
    estimate = per_sample(times[0] - times[-1]) * base
    for i, segment in enumerate(segments, 1):
        estimate = estimate - per_sample(times[i] - times[i + 1]) * segment.to(dtype)
    residual = (estimate / per_sample(times[0] - times[1]) - velocity.to(dtype)).clamp(-1, 1)
    return (pred.to(dtype) - (base - residual)).square().mean()


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
    squares = (pred - target).square().flatten(1)
    losses = squares.sum(1) if options.get("reduce") == "sum" else squares.mean(1)
    metric, adaptive = options.get("metric", Metric()), options.get("adaptive")
    if metric.name == "pseudo_huber":
        losses = (losses + metric.c**2).sqrt() - metric.c
    if metric.cosine:
        direction = 1 - F.cosine_similarity(pred, target, dim=1)
        losses = losses + metric.cosine * direction.reshape(pred.shape[0], -1).mean(1)
    if adaptive is not None:
        size = losses if adaptive.of == "loss" else squares.sum(1)
        losses = losses / (size.detach() + adaptive.eps) ** adaptive.power
    return (losses * call.weight.float()).sum()


def interpolate_case(shape: Shape, dtype: torch.dtype, device: torch.device) -> Case:
    """A path point and its velocity: two tensors read, two written."""
    elements = math.prod(shape)
    case = Case("interpolate, 2 points", shape, str(dtype)[6:], 4 * elements * dtype.itemsize,
                elements * dtype.itemsize, backends(device))  # fmt: skip

    def eager(x: Tensor, z: Tensor, alpha: Tensor, gamma: Tensor) -> Tensor:
        a, g = (values.reshape(*values.shape, *[1] * (x.ndim - 1)) for values in (alpha, gamma))
        return (a * z.float() + g * x.float()).to(x.dtype)

    compiled = torch.compile(eager, dynamic=False)
    for _ in range(case.sets):
        x, z = (torch.randn(shape, device=device, dtype=dtype) for _ in range(2))
        t = torch.rand(shape[0], device=device)
        given = (x, z, torch.stack([t, torch.ones_like(t)]), torch.stack([1 - t, -torch.ones_like(t)]))
        for backend in case.ours:
            case.add(backend, lambda g=given, backend=backend: rcgm_kernels.interpolate(*g, backend=backend))
        case.add("eager", lambda given=given: eager(*given))
        case.add("compile", lambda given=given: compiled(*given))
    return case


def advance_case(shape: Shape, dtype: torch.dtype, device: torch.device) -> Case:
    """A rollout step into a given tensor: two tensors read, one written."""
    elements = math.prod(shape)
    case = Case("advance", shape, str(dtype)[6:], 3 * elements * dtype.itemsize, elements * dtype.itemsize,
                backends(device))  # fmt: skip

    def eager(x: Tensor, velocity: Tensor, t: Tensor, r: Tensor, out: Tensor) -> Tensor:
        return out.copy_(x.float() - (t - r).reshape(-1, *[1] * (x.ndim - 1)) * velocity.float())

    compiled = torch.compile(eager, dynamic=False)
    for _ in range(case.sets):
        x, velocity, out = (torch.randn(shape, device=device, dtype=dtype) for _ in range(3))
        t = torch.rand(shape[0], device=device)
        given = (x, velocity, t, t / 2)
        for backend in case.ours:
            case.add(backend, lambda g=given, out=out, b=backend: rcgm_kernels.advance(*g, out=out, backend=b))
        case.add("eager", lambda given=given, out=out: eager(*given, out))
        case.add("compile", lambda given=given, out=out: compiled(*given, out))
    return case


def ema_case(device: torch.device, *, compiled: bool = True) -> Case:
    """A model's EMA with its bfloat16 copy: average and parameter read, average and copy written.

    On a GPU the model is DiT-XL/2, of 675 million parameters, on a CPU DiT-S/2. ``eager`` and ``mul and add`` are
    torch's two foreach forms.
    """
    preset = "S/2" if device.type == "cpu" else "XL/2"
    with torch.device("meta"):
        network = DiT.from_preset(preset, input_size=32, in_channels=4, num_classes=1000)
    shapes = [parameter.shape for parameter in network.parameters()]
    elements = sum(shape.numel() for shape in shapes)
    case = Case("ema_update_, with bf16", (elements,), "float32", elements * (4 + 4 + 4 + 2), elements * 4,
                backends(device))  # fmt: skip

    def eager(averages: list[Tensor], params: list[Tensor], copies: list[Tensor]) -> None:
        torch._foreach_lerp_(averages, params, 0.001)
        torch._foreach_copy_(copies, averages)

    def mul_and_add(averages: list[Tensor], params: list[Tensor], copies: list[Tensor]) -> None:
        torch._foreach_mul_(averages, 0.999)
        torch._foreach_add_(averages, params, alpha=0.001)
        torch._foreach_copy_(copies, averages)

    whole = torch.compile(eager, dynamic=False)
    for _ in range(case.sets):
        averages, params = ([torch.randn(shape, device=device) for shape in shapes] for _ in range(2))
        copies = [average.bfloat16() for average in averages]
        given = (averages, params, copies)
        for backend in case.ours:
            case.add(backend, lambda g=given, b=backend: rcgm_kernels.ema_update_(*g[:2], 0.999, g[2], backend=b))
        case.add("eager", lambda given=given: eager(*given))
        case.add("mul and add", lambda given=given: mul_and_add(*given))
        if compiled:
            case.add("compile", lambda given=given: whole(*given))
    return case
