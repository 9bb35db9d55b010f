"""Calls of the CUDA backend, where they run, and how closely they agree with the reference in float64."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType

import torch
from torch import Tensor

from rcgm_kernels.backends import cuda, reference
from rcgm_kernels.inputs import LossInputs
from rcgm_kernels.layout import batched
from rcgm_kernels.options import AdaptiveWeight, LossOptions, Metric
from rcgm_kernels.plan import LossPlan

EMULATED = itertools.count(1)  # numbers of emulated devices
GUARD = 64  # elements on either side of what a kernel may write
F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16
TOLERANCE = {F64: 1e-12, F32: 2e-5, F16: 1e-3, BF16: 8e-3}


@dataclass
class Place:
    """A device, real or emulated, with every new tensor poisoned and guarded on both sides."""

    device: torch.device
    module: ModuleType
    library: ctypes.CDLL | None = None  # of the emulated device
    index: int = 0  # of the device: another for each that is emulated, since what a device can hold is asked once
    guarded: list[tuple[Tensor, int]] = field(default_factory=list)
    losses: list[tuple] = field(default_factory=list)  # arguments of the losses that were launched

    def emulate(
        self, multiprocessors: int = 4, shared: int = 227 << 10, cluster: int = 16, backwards: bool = False
    ) -> None:
        """Change the emulated device; a real one stays as it is."""
        if self.library is not None:
            self.index = next(EMULATED)
            self.library.emulate(multiprocessors, shared, cluster, int(backwards))

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = math.prod(shape)
        buffer = torch.full((size + 2 * GUARD,), math.nan, dtype=dtype, device=self.device)
        self.guarded.append((buffer, size))
        return buffer[GUARD : GUARD + size].view(shape)

    def check_guards(self) -> None:
        for buffer, size in self.guarded:
            assert buffer[:GUARD].isnan().all()
            assert buffer[GUARD + size :].isnan().all()

    def path(self) -> tuple[str, int, int]:
        """How the last loss was split: path, threads a sample, blocks a cluster."""
        return self.module.describe_loss((self.index, 0), *self.losses[-1])[:3]


L2 = Metric()


@dataclass(frozen=True)
class Case:
    batch: int
    size: int
    dtypes: tuple[torch.dtype, ...]  # of the prediction and the terms
    times: bool = False
    pred_in_residual: bool = True
    pred_coeff: bool = False
    scale: bool = False
    weight: bool = False
    clip: float = 1.5
    metric: Metric = L2
    normalize: float | None = None
    normalize_scale: bool = False
    adaptive: AdaptiveWeight | None = None
    reduce: str = "mean"
    reduction: str = "mean"
    channels: int | None = None  # of size / channels positions
    with_gradient: bool = True
    scalar_dtype: torch.dtype = F32
    seed: int = 0

    @property
    def options(self) -> LossOptions:
        return LossOptions(
            times=self.times,
            pred_in_residual=self.pred_in_residual,
            clip=self.clip,
            metric=self.metric,
            normalize=self.normalize,
            adaptive=self.adaptive,
            reduce=self.reduce,
            reduction=self.reduction,
            with_gradient=self.with_gradient,
        )

    def inputs(self) -> LossInputs:
        """The tensors of the call, on the CPU."""
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=F64)

        def numbers(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, dtype=F64).add(0.5).to(self.scalar_dtype)

        shape = (self.size,) if self.channels is None else (self.channels, self.size // self.channels)
        tensors = [normal(self.batch, *shape).to(dtype) for dtype in self.dtypes]
        count = len(tensors) - 1
        if self.times:
            # base (unless it is the prediction), segments, velocity
            knots = count + 1 if self.pred_in_residual else count
            steps = torch.rand(knots - 1, self.batch, generator=generator, dtype=F64) * 0.2 + 0.02
            scalars = (1 - torch.cat([torch.zeros(1, self.batch), steps.cumsum(0)])).to(self.scalar_dtype)
            scalars[2:, ::3] = scalars[1, ::3]  # no segments there: plain flow matching
        else:
            scalars = numbers(count, self.batch) * torch.tensor([1.0, -1.0]).repeat(count)[:count, None]
            scalars = scalars.to(self.scalar_dtype)
            if count > 1:
                scalars[1, ::2] = 0
        wanted = (self.pred_coeff, self.scale, self.weight, self.normalize_scale)
        optional = [numbers(self.batch) if each else None for each in wanted]
        return LossInputs(tensors[0], tensors[1:], scalars, *optional)


def moved(value: object, device: torch.device, dtype: torch.dtype | None = None) -> object:
    if isinstance(value, Tensor):
        return value.to(device, dtype or value.dtype)
    if isinstance(value, LossInputs):
        return LossInputs(*(moved(item, device, dtype) for item in value))
    return [moved(item, device, dtype) for item in value] if isinstance(value, list) else value


def loss_by(backend: ModuleType, case: Case, inputs: LossInputs) -> tuple[Tensor, Tensor, Tensor]:
    return backend.residual_loss(inputs, LossPlan.of(inputs, case.options))


def expected(case: Case, inputs: LossInputs) -> tuple[Tensor, Tensor]:
    """The reference, in float64, on what the narrower dtypes hold."""
    return loss_by(reference, case, moved(inputs, torch.device("cpu"), F64))[:2]


def assert_close(got: Tensor, want: Tensor, tolerance: float) -> None:
    got, want = got.detach().cpu().double(), want.double()
    assert got.shape == want.shape
    assert torch.equal(got.isnan(), want.isnan())
    error, size = (got - want).nan_to_num().norm(), want.nan_to_num().norm()
    assert error <= tolerance * size + 1e-30, f"relative error {float(error / size):.2e}, allowed {tolerance:.0e}"


def assert_same(results: Sequence[Tensor | None], others: Sequence[Tensor | None]) -> None:
    """Bit for bit; None where the other is None."""
    for one, other in zip(results, others, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


def check_loss(place: Place, case: Case, inputs: LossInputs | None = None) -> tuple[Tensor, Tensor]:
    return check_loss_by(cuda, case, case.inputs() if inputs is None else inputs, place.device)


def check_loss_by(backend: ModuleType, case: Case, inputs: LossInputs, device: torch.device) -> tuple[Tensor, Tensor]:
    got_loss, got_gradient, scales = loss_by(backend, case, moved(inputs, device))
    want_loss, want_gradient = expected(case, inputs)
    compute = F64 if F64 in case.dtypes else F32
    assert got_loss.dtype == compute
    assert_close(got_loss, want_loss, TOLERANCE[compute])
    if case.with_gradient:
        assert got_gradient.dtype == case.dtypes[0]
        assert got_gradient.is_contiguous()
        if case.dtypes[0] == F16:
            assert scales.shape == (case.batch,)
            assert got_gradient.nan_to_num(0, 0, 0).abs().max() < 2**15 * (1 + 1e-3)
            got_gradient = got_gradient.double() / batched(scales.double(), got_gradient)
        else:
            assert scales is None
        assert_close(got_gradient, want_gradient, max(TOLERANCE[case.dtypes[0]], TOLERANCE[compute]))
    else:
        assert got_gradient is None
    return got_loss, got_gradient


METRICS = {
    "l2": {},
    "pseudo_huber": {"metric": Metric("pseudo_huber", c=0.1)},
    "barron": {"metric": Metric("barron", c=0.5, alpha=-2.0), "adaptive": AdaptiveWeight(0.5, 1e-2)},
    "welsch": {"metric": Metric("barron", c=0.5, alpha=-math.inf)},
    "cosine": {"metric": Metric("l2", cosine=0.5), "adaptive": AdaptiveWeight(1.0, 1e-3)},
    "normalized": {"normalize": 0.1, "normalize_scale": True},
    "sum": {"reduce": "sum", "clip": 2000.0},
    "reweighting": {"metric": Metric("barron_reweighting", 0.5), "reduce": "sum"},
    "of the loss": {"metric": Metric("pseudo_huber", c=0.1, cosine=0.5), "adaptive": AdaptiveWeight(1.0, 1e-5, "loss")},
}
DTYPES = {
    "float64": (F64,) * 4,
    "float32": (F32,) * 4,
    "float16": (F16,) * 4,
    "bfloat16": (BF16,) * 4,
    "mixed": (BF16, F16, F16, F32),
    "mixed with float64": (F32, F64, BF16, F16),
}
CHANNELS = {"metric": Metric("pseudo_huber", c=0.1, cosine=0.5)}
ALONE = {"metric": Metric("l2", cosine=0.5)}  # its gradient waits for the sums of a position, not of the sample
