"""Random calls of the losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import torch
from hypothesis import settings
from torch import Tensor

from rcgm_kernels import AdaptiveWeight, Metric, fused_loss, fused_residual_loss
from rcgm_kernels.layout import STORAGE_DTYPES
from tests.support.loss_calls import LossCall

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
