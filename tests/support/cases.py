"""Random calls of the kernels, the ways to run them, and how closely the results have to agree."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import hypothesis.strategies as st
import torch
from hypothesis import settings
from torch import Tensor

from rcgm_kernels import AdaptiveWeight, Metric, fused_loss, fused_residual_loss
from rcgm_kernels.backends import cpu, triton
from rcgm_kernels.layout import STORAGE_DTYPES, batched, sample_size

HALVES = (torch.float16, torch.bfloat16)
LAYOUTS = ("dense", "slice", "spaced", "expanded", "permuted", "broadcast")
METRICS = (
    Metric("l2"),
    Metric("l2", cosine=0.7),
    Metric("l2", cosine=0.7, cosine_dim="sample"),
    Metric("pseudo_huber", c=0.03),
    Metric("pseudo_huber", c=0.0),
    Metric("pseudo_huber", c=5.0, cosine=0.2),
    Metric("pseudo_huber", c=5.0, cosine=0.2, cosine_dim="sample"),
    *(Metric("barron", c=2.0, alpha=alpha) for alpha in (2.0, 1.0, 0.5, 0.0, -2.0, -torch.inf)),
    Metric("barron", c=0.5, alpha=1.0, cosine=1.0),
    *(Metric("barron_reweighting", c=0.7, alpha=alpha) for alpha in (2.0, 1.0, -1.0, -torch.inf)),
)
ADAPTIVE = (
    None,
    1.0,
    AdaptiveWeight(0.5, 1e-2),
    AdaptiveWeight(-0.5, 1.0),
    AdaptiveWeight(1.0, 1e-5, of="loss"),
    AdaptiveWeight(0.5, 1e-2, of="loss"),
)
# Around the chunks (512, 4096) and the blocks (16384) of the kernels; samples without elements, or with one.
SAMPLE_SHAPES = (
    (),
    (0,),
    (1,),
    (3,),
    (2, 0, 3),
    (5, 7),
    (2, 3, 11),
    (511,),
    (4, 128),
    (4, 12, 12),
    (300, 3),
    (17, 2, 513),
    (513,),
    (3, 1365),
    (4096,),
    (17, 241),
    (16383,),
    (64, 256),
    (3, 64, 91),
)


def every(examples: int) -> settings:
    """Settings of a property: so many examples, the same ones in every run."""
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


# --- the ways to run an operation on a CPU


def cpu_implementations() -> tuple[str, ...]:
    """``"reference"`` and, for each instruction set that runs here, ``"cpu/<name>"``."""
    sets = () if cpu.unavailable() else cpu.instruction_sets()
    return ("reference", *(f"cpu/{name}" for name in sets))


def all_implementations() -> tuple[str, ...]:
    """Those of the CPU, and ``"triton"`` where its interpreter runs."""
    interpreted = triton.unavailable() is None and triton.supports(torch.device("cpu"))
    return (*cpu_implementations(), *(["triton"] if interpreted else []))


@contextmanager
def running(implementation: str) -> Iterator[str]:
    """The backend to name in a call, with its instruction set forced, and new memory full of NaN."""
    backend, _, instruction_set = implementation.partition("/")
    with environment(cpu.ISA_ENVIRONMENT, instruction_set or None), poisoned_memory():
        yield backend


@contextmanager
def environment(name: str, value: str | None) -> Iterator[None]:
    before = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fill what ``torch.empty`` and its like return with NaN, so that an element left unwritten shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- calls of the losses


@dataclass(frozen=True)
class LossCall:
    """One call of a fused loss."""

    function: Callable[..., Tensor]
    pred: Tensor
    arguments: dict[str, Any]

    def run(self, backend: str) -> tuple[Tensor, Tensor]:
        """The loss, and the gradient of its sum."""
        pred = self.pred.detach().requires_grad_()
        loss = self.function(pred, **self.arguments, backend=backend)
        loss.sum().backward()
        return loss.detach(), pred.grad

    def states(self) -> list[Tensor]:
        """All tensors of the shape of the prediction."""
        given = self.arguments
        others = [*given["segments"], given["velocity"], given["base"]] if "segments" in given else [*given["terms"]]
        return [self.pred, *(tensor for tensor in others if tensor is not None)]

    def combination(self) -> tuple[Tensor, Tensor]:
        """Tensors ``[K, B, ...]`` and coefficients ``[K, B]`` of the residual, in float64, by math.md section 2."""
        given = self.arguments
        if self.function is fused_loss:
            t = given["times"].double()
            base = self.pred if given["base"] is None else given["base"]
            coeffs = torch.cat([(t[:1] - t[-1:]), t[2:] - t[1:-1]]) / (t[0] - t[1])
            flow_matching = torch.zeros_like(coeffs)
            flow_matching[0] = 1
            coeffs = torch.where(t[1] == t[-1], flow_matching, coeffs)
            tensors = [base, *given["segments"], given["velocity"]]
            coeffs = torch.cat([coeffs, torch.full_like(coeffs[:1], -1)])
        else:
            first = torch.as_tensor(given["pred_coeff"], dtype=torch.float64).expand(1, self.pred.shape[0])
            tensors, coeffs = [self.pred, *given["terms"]], torch.cat([first, given["coeffs"].double()])
        return torch.stack([tensor.detach().double() for tensor in tensors]), coeffs

    def rounding(self) -> Tensor:
        """The relative error ``[B]`` that float32 may make in a loss: 1e-5, or more where the residual cancels.

        What counts is not the size of the tensors but that of their differences from the first one.
        """
        tensors, coeffs = self.combination()
        tensors = tensors.reshape(*coeffs.shape, sample_size(self.pred))
        used = torch.where(coeffs[..., None] != 0, tensors, 0)
        first, coeffs = used[0], coeffs[..., None]
        summed = coeffs.sum(0).abs() * first.abs() + (coeffs.abs() * (used - first).abs()).sum(0)
        residual = (coeffs * used).sum(0)
        share = summed.square().sum(1).sqrt() / residual.square().sum(1).sqrt()
        return (share * 2**-22).nan_to_num(nan=0, posinf=0).clamp(min=1e-5)

    def upcast(self) -> LossCall:
        """The same numbers in float64."""
        return replace(self, pred=_upcast(self.pred), arguments={k: _upcast(v) for k, v in self.arguments.items()})

    def to(self, device: torch.device | str) -> LossCall:
        """The same call on another device; strides of views are lost."""
        return replace(
            self, pred=self.pred.to(device), arguments={k: _moved(v, device) for k, v in self.arguments.items()}
        )

    def with_options(self, **options: Any) -> LossCall:
        return replace(self, arguments={**self.arguments, **options})


def _upcast(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double()
    return [_upcast(item) for item in value] if isinstance(value, list) else value


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return [_moved(item, device) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class LossCase:
    """What a call of a fused loss is made from: short to print, and the same call every time.

    ``knots`` are the kinds of times of the samples in turn (None: ``fused_residual_loss`` with drawn coefficients);
    ``dtypes`` and ``layouts`` are those of the prediction and of the other tensors in turn.
    """

    seed: int
    batch: int
    sample: tuple[int, ...]
    count: int
    dtypes: tuple[torch.dtype, ...]
    layouts: tuple[str, ...]
    stacked: bool
    spread: float
    knots: tuple[str, ...] | None
    scalar_dtype: torch.dtype
    base: bool
    pred_coeff: str
    scaled: bool
    weighted: bool
    clip: float | None
    metric: Metric
    normalize: float | None
    normalize_scale: str | None
    adaptive: AdaptiveWeight | float | None
    reduce: str
    reduction: str

    def call(self) -> LossCall:
        generator = torch.Generator().manual_seed(self.seed)
        drawn = [0]

        def tensor(around: Tensor | None = None) -> Tensor:
            position = drawn[0]
            drawn[0] += 1
            dtype, layout = self.dtypes[position % len(self.dtypes)], self.layouts[position % len(self.layouts)]
            values = torch.randn(self.batch, *self.sample, generator=generator, dtype=torch.float64)
            if around is not None:
                values = around + self.spread * values
            return laid_out(values.to(dtype), layout)

        pred = tensor()
        center = pred.double()
        options: dict[str, Any] = {
            "clip": self.clip,
            "metric": self.metric,
            "adaptive": self.adaptive,
            "reduce": self.reduce,
            "reduction": self.reduction,
            "weight": self._weight(generator) if self.weighted else None,
            "normalize": self.normalize,
        }
        if self.normalize is not None:
            scales = {None: None, "number": 3.0, "tensor": self._scalar(generator)}
            options["normalize_scale"] = scales[self.normalize_scale]
        terms: list[Tensor] | Tensor = [tensor(center) for _ in range(self.count)]
        if self.stacked and len(self.dtypes) == 1 and terms:
            terms = torch.stack(terms)
        if self.knots is not None:
            times = knots(self.knots, self.count, self.batch, generator).to(self.scalar_dtype)
            base = tensor(center) if self.base else None
            velocity = tensor(center)
            return LossCall(
                fused_loss, pred, {"segments": terms, "velocity": velocity, "times": times, "base": base, **options}
            )
        coeffs = torch.randn(self.count, self.batch, generator=generator, dtype=torch.float64)
        idle = torch.rand(coeffs.shape, generator=generator) < 0.2
        idle[:1] &= not self.metric.cosine
        coeffs = torch.where(idle, 0.0, coeffs)
        options |= {
            "coeffs": coeffs.to(self.scalar_dtype),
            "pred_coeff": self._pred_coeff(generator),
            "scale": self._scalar(generator) if self.scaled else None,
        }
        return LossCall(fused_residual_loss, pred, {"terms": terms, **options})

    def _scalar(self, generator: torch.Generator) -> Tensor:
        return torch.rand(self.batch, generator=generator, dtype=torch.float64).add(0.1).to(self.scalar_dtype)

    def _weight(self, generator: torch.Generator) -> Tensor:
        """One in five samples is left out."""
        left_out = torch.rand(self.batch, generator=generator) < 0.2
        return torch.where(left_out, 0.0, self._scalar(generator))

    def _pred_coeff(self, generator: torch.Generator) -> Tensor | float:
        if self.pred_coeff != "tensor":
            return float(self.pred_coeff)
        values = torch.randn(self.batch, generator=generator, dtype=torch.float64)
        return torch.where(torch.rand(self.batch, generator=generator) < 0.3, 0.0, values).to(self.scalar_dtype)


def laid_out(values: Tensor, layout: str) -> Tensor:
    """``values`` in the memory layout called ``layout``; ``expanded`` and ``broadcast`` repeat what comes first."""
    batch = values.shape[0]
    if layout == "slice":  # one wave's part of a batched forward
        return torch.cat([values, values, values])[batch : 2 * batch]
    if layout == "spaced":  # dense samples that are far apart
        return torch.stack([values, values], dim=1)[:, 1]
    if layout == "expanded" and batch:
        return values[:1].expand_as(values)
    if layout == "permuted" and values.ndim > 2:
        return values.transpose(1, -1).contiguous().transpose(1, -1)
    if layout == "broadcast" and values.ndim > 1 and values.shape[-1]:
        return values[..., :1].expand_as(values)
    return values


KNOTS = ("usual", "long_step", "at_r", "no_interval", "idle_tail")


def knots(kinds: Sequence[str], order: int, batch: int, generator: torch.Generator) -> Tensor:
    """Times ``[order + 2, batch]`` in float64, sample ``b`` of kind ``kinds[b % len(kinds)]``."""
    columns = []
    for b in range(batch):
        kind = kinds[b % len(kinds)]
        r, t = torch.rand(2, generator=generator, dtype=torch.float64).sort().values.tolist()
        t = min(t + 0.1, 1.0)  # room for the first step of 0.01 between r and t
        if kind == "no_interval":
            columns.append(torch.full((order + 2,), t, dtype=torch.float64))
            continue
        first = {"usual": t - 0.01, "long_step": t - 0.6 * (t - r), "at_r": r, "idle_tail": t - 0.01}[kind]
        first = r if order == 0 else first
        share = torch.linspace(0, 1, order + 1, dtype=torch.float64)
        if kind == "idle_tail":  # the last segments have length 0
            share = (2 * share).clamp(max=1)
        later = torch.where(share < 1, first + share * (r - first), r)
        columns.append(torch.cat([torch.tensor([t], dtype=torch.float64), later if order else later[:1]]))
    return torch.stack(columns, dim=1) if columns else torch.zeros(order + 2, 0, dtype=torch.float64)


@st.composite
def loss_cases(
    draw: st.DrawFn, dtypes: Sequence[torch.dtype] = STORAGE_DTYPES, most_elements: int = 300_000
) -> LossCase:
    """Cases of both losses, with at most about ``most_elements`` elements in all their tensors together."""
    sample = draw(st.sampled_from(SAMPLE_SHAPES))
    size = torch.Size(sample).numel()
    most_tensors = max(3, min(20, most_elements // max(size, 1)))
    by_times = draw(st.booleans())
    count = draw(st.integers(0, min(16, most_tensors - 2)))
    batch = draw(st.sampled_from([n for n in (0, 1, 2, 3, 5, 9) if n * size * (count + 2) <= most_elements]))
    pred_coeff = draw(st.sampled_from(["1", "tensor", "-0.3"] + ["0"] * (count > 0)))
    layouts = tuple(draw(st.lists(st.sampled_from(LAYOUTS), min_size=1, max_size=4)))
    spread = draw(st.sampled_from([0.01, 1.0]))
    # Where the prediction and its target are parallel, nothing is left of the cosine term but its rounding.
    directed = size > 30 and "broadcast" not in layouts and (by_times or (count > 0 and spread == 1.0))
    # So it is with a single channel.
    dims = ("sample", "channels") if len(sample) < 2 or sample[0] > 1 else ("sample",)
    usable = [metric for metric in METRICS if not metric.cosine or (directed and metric.cosine_dim in dims)]
    metric = draw(st.sampled_from(usable))
    return LossCase(
        seed=draw(st.integers(0, 2**32)),
        batch=batch,
        sample=sample,
        count=count,
        dtypes=tuple(draw(st.lists(st.sampled_from(dtypes), min_size=1, max_size=3))),
        layouts=layouts,
        stacked=draw(st.booleans()),
        spread=spread,
        knots=tuple(draw(st.lists(st.sampled_from(KNOTS), min_size=1, max_size=3))) if by_times else None,
        scalar_dtype=draw(st.sampled_from([torch.float32, torch.float64])),
        base=draw(st.booleans()),
        pred_coeff=pred_coeff,
        scaled=draw(st.booleans()),
        weighted=draw(st.booleans()),
        clip=draw(st.sampled_from([None, 1.0, 0.05, 50.0])),
        metric=metric,
        normalize=None if metric.cosine else draw(st.sampled_from([None, 0.1, 0.0])),
        normalize_scale=draw(st.sampled_from([None, "number", "tensor"])),
        adaptive=draw(st.sampled_from(ADAPTIVE)),
        reduce=draw(st.sampled_from(["mean", "sum"])),
        reduction=draw(st.sampled_from(["mean", "sum", "none"])),
    )


# --- how closely results have to agree


def spacing(values: Tensor, dtype: torch.dtype) -> Tensor:
    """One unit in the last place of ``dtype`` at ``values`` (float64)."""
    information = torch.finfo(dtype)
    _, exponent = torch.frexp(values.abs().clamp(min=information.smallest_normal))
    return torch.ldexp(torch.full_like(values, information.eps), exponent - 1)


def assert_loss_close(actual: Tensor, expected: Tensor, relative: Tensor | float = 1e-5) -> None:
    """Within a share of the expected loss; ``relative`` is a number, or one for each sample.

    What is below the smallest normal number of the dtype does not count.
    """
    relative = torch.as_tensor(relative)
    relative = relative if actual.ndim or not relative.numel() else relative.amax()
    allowed = (relative * expected.abs()).clamp(min=torch.finfo(actual.dtype).smallest_normal)
    wrong = ~_equal_or_within(actual.double(), expected, allowed)
    assert not wrong.any(), f"{actual[wrong].tolist()} instead of {expected[wrong].tolist()}"


def assert_gradient_close(actual: Tensor, expected: Tensor, share: Tensor | float = 1e-4) -> None:
    """Within one unit in the last place, or ``share`` (a number, or ``[B]``) of the sample's largest element.

    What is below 1e-36 does not count: on the way to it float32 has run out of exponents.
    """
    assert actual.shape == expected.shape
    if not expected.numel():
        return
    largest = expected.nan_to_num(0).abs().reshape(len(expected), -1).amax(1)
    allowed = torch.maximum(spacing(expected, actual.dtype), batched((largest * share).clamp(min=1e-36), expected))
    wrong = ~_equal_or_within(actual.double(), expected, allowed)
    assert not wrong.any(), (
        f"{int(wrong.sum())} of {wrong.numel()} elements are wrong, the first at {wrong.nonzero()[0].tolist()}: "
        f"{actual[wrong][0].item()} instead of {expected[wrong][0].item()}, {allowed[wrong][0].item()} allowed"
    )


def _equal_or_within(actual: Tensor, expected: Tensor, allowed: Tensor) -> Tensor:
    return (actual == expected) | ((actual - expected).abs() <= allowed) | (actual.isnan() & expected.isnan())
