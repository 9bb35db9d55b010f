"""The operations of a backend against the reference in float64, each with the tensors of one case.

Backends are given by name: a case may run in another process.
"""

from __future__ import annotations

import importlib
import math
from types import ModuleType

import torch
from torch import Tensor

from rcgm_kernels.backends import reference
from tests.support.cuda_cases import BF16, F16, F32, F64, TOLERANCE, Case, assert_close, check_loss_by, moved

CPU = torch.device("cpu")
# (x, z or velocity, out)
PATH_DTYPES = {
    "bfloat16": (BF16,) * 3,
    "float16": (F16,) * 3,
    "float32": (F32,) * 3,
    "float64": (F64,) * 3,
    "mixed": (BF16, F32, F16),
}
PATH_SHAPES = [(1, 1), (300, 3), (2, 4096), (2, 5003)]
# (average, parameter, copy)
EMA_DTYPES = {"float32": (F32, F32, BF16), "bfloat16": (F32, BF16, F16), "no copy": (F32, F32, None)}
EMA_DTYPES |= {"float64": (F64, F32, F64)}
EMA_SIZES = [5, 0, 4096, 8193, 3, 20003]


def backend_of(name: str) -> ModuleType:
    return importlib.import_module(f"rcgm_kernels.backends.{name}")


def loss_agrees(backend: str, case: Case, layout: str = "dense") -> None:
    inputs = case.inputs()
    if layout != "dense":
        inputs.terms[-1] = unaligned(inputs.terms[-1], layout)
        inputs = inputs._replace(pred=unaligned(inputs.pred, layout))
    check_loss_by(backend_of(backend), case, inputs, CPU)


def unaligned(tensor: Tensor, layout: str) -> Tensor:
    """The same values at addresses that vectors of 16 bytes cannot be read from, among values that are NaN."""
    batch, size = tensor.shape
    if layout == "from an odd element":
        flat = torch.full((batch * size + 1,), math.nan, dtype=tensor.dtype)
        return flat[1:].view(batch, size).copy_(tensor)
    assert layout == "of odd rows"
    return torch.full((batch, size + 1), math.nan, dtype=tensor.dtype)[:, :size].copy_(tensor)


def idle_terms_are_not_read(backend: str, size: int) -> None:
    """What has the coefficient or the weight 0 may hold NaN."""
    case = Case(5, size, (BF16, BF16, F32, BF16), pred_coeff=True, weight=True, reduction="none")
    inputs = case.inputs()
    inputs.scalars[:, 0] = 0
    inputs.pred_coeff[1] = 0
    inputs.pred[1] = math.nan
    for k, term in enumerate(inputs.terms):
        term[inputs.scalars[k] == 0] = math.nan
    inputs.weight[4] = 0
    for tensor in (inputs.pred, *inputs.terms):
        tensor[4] = math.inf
    loss, gradient = check_loss_by(backend_of(backend), case, inputs, CPU)
    assert loss.isfinite().all() and gradient.isfinite().all()


def bad_sample_stays_alone(backend: str, size: int, bad: float) -> None:
    case = Case(4, size, (F32,) * 3, clip=math.inf, reduction="none")
    inputs = case.inputs()
    inputs.pred[2, size // 2] = bad
    loss, _ = check_loss_by(backend_of(backend), case, inputs, CPU)
    assert loss.isfinite().tolist() == [True, True, False, True]


def path_agrees(backend: str, dtypes: tuple[torch.dtype, ...], batch: int, size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    x, z = (torch.randn(batch, size, generator=generator, dtype=F64).to(dtype) for dtype in dtypes[:2])
    alpha, gamma = torch.rand(2, 3, batch, generator=generator)
    tolerance = max(TOLERANCE[dtypes[2]], 1e-12 if F64 in dtypes else 1e-6)
    made = backend_of(backend).interpolate(x, z, alpha, gamma, dtypes[2])
    assert_close(made, reference.interpolate(*moved([x, z, alpha, gamma], CPU, F64), F64), tolerance)
    want = x.double() - (alpha[0].double() - gamma[0].double())[:, None] * z.double()
    rows = torch.full((2 * batch, size), math.nan, dtype=dtypes[2])
    backend_of(backend).advance_(rows[::2], x, z, alpha[0], gamma[0])
    assert_close(rows[::2], want, tolerance)
    assert rows[1::2].isnan().all()
    if dtypes[0] == dtypes[2]:
        backend_of(backend).advance_(x, x, z, alpha[0], gamma[0])
        assert_close(x, want, tolerance)


def scaling_agrees(backend: str, dtype: torch.dtype, upstream: Tensor, batch: int, size: int) -> None:
    gradient = torch.randn(batch, size, generator=torch.Generator().manual_seed(0), dtype=F64).to(dtype)
    scales = 2.0 ** torch.arange(-1, batch - 1) if dtype == F16 else torch.ones(0)
    factor = upstream.double() / scales.double() if len(scales) else upstream.double()
    want = gradient.double() * factor.reshape(-1, 1)
    backend_of(backend).scale_gradient_(gradient, upstream, scales)
    assert_close(gradient, want, 1e-14 if dtype == F64 else TOLERANCE[dtype])


def average_agrees(backend: str, dtypes: tuple[torch.dtype | None, ...], decay: float) -> None:
    generator = torch.Generator().manual_seed(0)

    def made(dtype: torch.dtype | None) -> list[Tensor]:
        sizes = EMA_SIZES if dtype else []
        return [torch.randn(size + 1, generator=generator, dtype=F64).to(dtype) for size in sizes]

    wide = [made(dtype) for dtype in dtypes]
    # The tensor of 8193 elements begins at an odd element.
    averages, params, copies = ([t[1:] if len(t) == 8194 else t[:-1] for t in tensors] for tensors in wide)
    want = [decay * each.double() + (1 - decay) * p.double() for each, p in zip(averages, params, strict=True)]
    around = [tensor[:1].clone() if len(tensor) == 8194 else tensor[-1:].clone() for tensor in wide[0]]
    backend_of(backend).ema_update_(averages, params, decay, copies)
    for index, average in enumerate(averages):
        assert_close(average, want[index], TOLERANCE[average.dtype] / 10)
        if decay == 0:
            assert torch.equal(average, params[index].to(average.dtype))
        if copies:
            assert torch.equal(copies[index], average.to(copies[index].dtype))
    for tensor, before in zip(wide[0], around, strict=True):
        assert torch.equal(tensor[:1] if len(tensor) == 8194 else tensor[-1:], before)
