"""Gradients' scaling, path and average of the CUDA backend."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rcgm_kernels.backends import cuda, reference
from tests.support.cuda_cases import BF16, F16, F32, F64, TOLERANCE, Place, assert_close, moved


@pytest.mark.parametrize("dtype", [BF16, F16, F32, F64])
@pytest.mark.parametrize("upstream_dtype", [F32, F64])
@pytest.mark.parametrize(("batch", "size"), [(1, 1), (5, 3), (3, 1024), (2, 40001), (300, 8)])
def test_scale_gradient(place: Place, batch: int, size: int, upstream_dtype: torch.dtype, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(batch * size)
    start = torch.randn(batch, size, generator=generator, dtype=F64).to(dtype)
    per_sample = torch.rand(batch, generator=generator) + 0.5
    tolerance = max(TOLERANCE[dtype] if dtype != F64 else 0, 1e-7 if upstream_dtype == F32 else 1e-14)
    for upstream in (torch.tensor(3.25), per_sample, torch.tensor(0.75).expand(batch)):
        gradient = place.empty((batch, size), dtype)
        gradient.copy_(start)
        scales = 2.0 ** torch.arange(-3, batch - 3).clamp(max=5) if dtype == F16 else torch.ones(0)
        cuda.scale_gradient_(gradient, *moved([upstream.to(upstream_dtype), scales], place.device))
        factor = upstream.double() / scales.double() if len(scales) else upstream.double()
        assert_close(gradient, start.double() * factor.reshape(-1, 1), tolerance)


@pytest.mark.parametrize("dtype", [BF16, F32])
def test_factor_one_changes_no_bit(place: Place, dtype: torch.dtype) -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16 if dtype == BF16 else torch.int32)
    bits = bits if dtype == BF16 else bits << 16 | 1
    gradient = moved(bits.view(dtype).view(4, -1).clone(), place.device)
    none = torch.ones(0, device=place.device)
    cuda.scale_gradient_(gradient, torch.tensor(1.0, device=place.device), none)
    assert torch.equal(gradient.cpu().view(bits.dtype).reshape(-1), bits)
    upstream = torch.tensor([1.0, 2.0, 1.0, 1.0], device=place.device)
    cuda.scale_gradient_(gradient, upstream, none)
    changed = (gradient.cpu().view(bits.dtype) != bits.view(4, -1)).any(1)
    assert changed.tolist() == [False, True, False, False]


@pytest.mark.parametrize("dtypes", [(BF16,) * 3, (F32,) * 3, (BF16, F32, F16), (F32, F64, BF16), (F32, F32, F64)])
@pytest.mark.parametrize(("batch", "size"), [(1, 1), (300, 2), (3, 17), (4, 1024), (2, 40008), (1, 5003)])
@pytest.mark.parametrize("points", [1, 5])
def test_interpolate(place: Place, points: int, batch: int, size: int, dtypes: tuple[torch.dtype, ...]) -> None:
    generator = torch.Generator().manual_seed(size)
    x, z = (torch.randn(batch, size, generator=generator, dtype=F64).to(dtype) for dtype in dtypes[:2])
    alpha, gamma = torch.rand(2, points, batch, generator=generator)
    inputs = moved([x, z, alpha, gamma.double()], place.device)
    got = cuda.interpolate(*inputs, dtypes[2])
    assert got.dtype == dtypes[2]
    want = reference.interpolate(*moved([x, z, alpha, gamma], torch.device("cpu"), F64), F64)
    assert_close(got, want, max(TOLERANCE[dtypes[2]], 1e-12 if F64 in dtypes else 1e-6))


@pytest.mark.parametrize("dtypes", [(BF16,) * 3, (F16,) * 3, (F32, BF16, F32), (F64, F32, F64), (BF16, F32, F64)])
@pytest.mark.parametrize(("batch", "size"), [(1, 1), (200, 2), (3, 33), (4, 1024), (2, 40008)])
def test_advance(place: Place, batch: int, size: int, dtypes: tuple[torch.dtype, ...]) -> None:
    generator = torch.Generator().manual_seed(size)
    x, velocity = (torch.randn(batch, size, generator=generator, dtype=F64).to(dtype) for dtype in dtypes[:2])
    t, r = torch.rand(2, batch, generator=generator)
    inputs = moved([x, velocity, t, r.double()], place.device)
    want = x.double() - (t.double() - r.double())[:, None] * velocity.double()
    tolerance = max(TOLERANCE[dtypes[2]], 1e-12 if F64 in dtypes else 1e-6)
    rows = place.empty((2 * batch, size), dtypes[2])
    cuda.advance_(rows[::2], *inputs)
    assert_close(rows[::2], want, tolerance)
    assert rows[1::2].isnan().all()
    columns = torch.full((size, batch), math.nan, dtype=dtypes[2], device=place.device).t()
    cuda.advance_(columns, *inputs)
    assert_close(columns, want, tolerance)
    if dtypes[0] == dtypes[2]:
        cuda.advance_(inputs[0], *inputs)
        assert_close(inputs[0], want, tolerance)


def ema_tensors(place: Place, sizes: list[int], dtypes: tuple[torch.dtype | None, ...]) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(len(sizes))
    tensors = []
    for dtype in dtypes:
        tensors.append([place.empty((size,), dtype) for size in sizes] if dtype else [])
        for tensor in tensors[-1]:
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=F64))
    return tensors


EMA_SIZES = [1, 0, 3, 1024, 8191, 8192, 8193, 5, 20001, 0]


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize(
    "dtypes",
    [(F32, BF16, BF16), (F32, F32, None), (F32, F16, F32), (F64, BF16, F16), (F32, F64, F64), (F64, F64, None)],
)
def test_ema(place: Place, dtypes: tuple[torch.dtype | None, ...], decay: float) -> None:
    averages, params, copies = ema_tensors(place, EMA_SIZES, dtypes)
    before = [average.cpu().double().clone() for average in averages]
    cuda.ema_update_(averages, params, decay, copies)
    for index, average in enumerate(averages):
        param = params[index].cpu()
        want = before[index] + (1 - decay) * (param.double() - before[index])
        assert_close(average, want, TOLERANCE[average.dtype] / 10)
        if decay == 0:
            assert torch.equal(average.cpu(), param.to(average.dtype))
        if decay == 1:
            assert torch.equal(average.cpu().double(), before[index])
        if copies:
            assert_close(copies[index], want, max(TOLERANCE[copies[index].dtype], 1e-7))


@pytest.mark.parametrize(("count", "launches"), [(1, 1), (97, 1), (800, 1), (801, 2), (1700, 3)])
def test_ema_of_many_tensors(place: Place, count: int, launches: int) -> None:
    averages, params, copies = ema_tensors(place, [1 + index % 7 for index in range(count)], (F32, BF16, BF16))
    want = 0.9 * torch.cat(averages).cpu().double() + 0.1 * torch.cat(params).cpu().double()
    before = place.library.emulated_launches() if place.library is not None else 0
    cuda.ema_update_(averages, params, 0.9, copies)
    if place.library is not None:
        assert place.library.emulated_launches() - before == launches
    assert_close(torch.cat(averages), want, 1e-6)
    assert_close(torch.cat(copies), want, TOLERANCE[BF16])


def test_ema_of_views(place: Place) -> None:
    """Sharded parameters are slices of one buffer, at any offset; a parameter may be transposed."""
    averages, params, copies = ema_tensors(place, [1000], (F32, BF16, BF16))
    want = 0.75 * averages[0].cpu().double() + 0.25 * params[0].cpu().double()
    parts = [averages[0].split([1, 998, 1]), params[0].split([1, 998, 1]), copies[0].split([1, 998, 1])]
    cuda.ema_update_(parts[0], parts[1], 0.75, parts[2])
    assert_close(averages[0], want, 1e-6)
    assert_close(copies[0], want, TOLERANCE[BF16])
    square, other = torch.zeros(30, 20, device=place.device), torch.randn(20, 30).to(place.device)
    cuda.ema_update_([square], [other.t()], 0.0, [])
    assert torch.equal(square, other.t())
