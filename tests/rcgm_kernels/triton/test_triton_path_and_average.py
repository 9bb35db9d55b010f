"""Path, average and scaling of gradients of the Triton backend against the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rcgm_kernels
from rcgm_kernels.backends import triton as backend
from rcgm_kernels.layout import STORAGE_DTYPES
from tests.support.cases import every
from tests.support.closeness import assert_gradient_close
from tests.support.implementations import poisoned_memory
from tests.support.triton_cases import DEVICE, runs


@runs
@given(
    batch=st.sampled_from([0, 1, 4, 130]),
    size=st.sampled_from([0, 1, 3, 257, 5000]),
    points=st.integers(1, 3),
    dtypes=st.tuples(*[st.sampled_from(STORAGE_DTYPES)] * 3),
)
@every(25)
def test_path_agrees_with_float64(batch: int, size: int, points: int, dtypes: tuple):
    generator = torch.Generator().manual_seed(size)
    x, z = (torch.randn(batch, size, generator=generator).to(dtype) for dtype in dtypes[:2])
    alpha, gamma = torch.rand(2, points, batch, generator=generator)
    where = [value.to(DEVICE) for value in (x, z, alpha, gamma)]
    with poisoned_memory():
        made = rcgm_kernels.interpolate(*where, dtype=dtypes[2], backend="triton").cpu()
    assert_gradient_close(made, rcgm_kernels.interpolate(x.double(), z.double(), alpha, gamma, backend="reference"))
    out = torch.full((batch, 2, size), torch.nan).to(dtypes[2]).to(DEVICE)
    stepped = rcgm_kernels.advance(*where[:2], where[2][0], where[3][0], out=out[:, 1], backend="triton").cpu()
    expected = rcgm_kernels.advance(x.double(), z.double(), alpha[0], gamma[0], backend="reference")
    assert_gradient_close(stepped, expected)
    assert out[:, 0].isnan().all()  # nothing but what was asked for is written


@runs
def test_path_reads_views_and_steps_in_place():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, generator=generator).T[:, :4]  # samples that are not dense
    velocity = torch.randn(1, 4, generator=generator).expand(3, 4)
    t, r = torch.tensor([0.9, 0.5, 0.7]), torch.tensor([0.1, 0.5, 0.2])
    expected = rcgm_kernels.advance(x.double(), velocity.double(), t, r, backend="reference")
    given = [value.to(DEVICE) for value in (x, velocity, t, r)]
    out = rcgm_kernels.advance(*given, out=given[0], backend="triton")
    assert out is given[0]
    assert_gradient_close(out.cpu(), expected)


@runs
@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.5, 0.999, 1.0])
def test_ema_of_a_model(decay: float, copied: bool):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3,), (0,), (70, 70), (8192,), (1,), (9000,), (2, 50), (6,)]
    dtypes = [torch.float32, torch.float32, torch.bfloat16, torch.float32, torch.float16, torch.bfloat16] + 2 * [
        torch.float64
    ]
    averages = [torch.randn(shape, generator=generator) for shape in shapes]
    averages[-1] = averages[-1].double()
    params = [torch.randn(shape, generator=generator).to(dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    here = [[tensor.to(DEVICE, copy=True) for tensor in tensors] for tensors in (averages, params)]
    here[0][5] = torch.zeros(9001, device=DEVICE)[1:].copy_(averages[5])  # not at an address that 16 divides
    copies = [torch.full(shape, torch.nan, dtype=torch.bfloat16, device=DEVICE) for shape in shapes]
    rcgm_kernels.ema_update_(*here, decay, copies if copied else None, backend="triton")
    for index, (average, param) in enumerate(zip(averages, params, strict=True)):
        expected = decay * average.double() + (1 - decay) * param.double()
        tolerance = 1e-14 if average.dtype == torch.float64 else 1e-6  # two units of the largest, about 4
        torch.testing.assert_close(here[0][index].cpu().double(), expected, rtol=0, atol=tolerance)
        if copied:
            # The compiled kernel rounds to the nearest; Triton's interpreter drops the bits that bfloat16 lacks.
            step = 0.0 if DEVICE.type == "cuda" else 2**-7
            torch.testing.assert_close(
                copies[index].float(), here[0][index].float().bfloat16().float(), rtol=step, atol=0
            )
        else:
            assert copies[index].isnan().all()
        if decay in (0.0, 1.0):
            assert torch.equal(here[0][index].cpu(), (average if decay else param.to(average.dtype)))


@runs
def test_ema_tables_are_made_once():
    from rcgm_kernels.backends.triton import ema

    averages, params = ([torch.zeros(n, device=DEVICE) for n in (3, 5000)] for _ in range(2))
    rcgm_kernels.ema_update_(averages, params, 0.9, backend="triton")
    before = ema._table.cache_info()
    for decay in (0.9, 0.99, 0.999):
        rcgm_kernels.ema_update_(averages, params, decay, backend="triton")
    after = ema._table.cache_info()
    assert (after.hits - before.hits, after.misses - before.misses) == (3, 0)


@runs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("upstream", [1.0, 3.0, torch.nan, "per sample"])
@pytest.mark.parametrize("shape", [(3, 5000), (130, 2)])
def test_upstream_gradient(upstream, shape: tuple[int, int], dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(shape, generator=generator).to(dtype)
    by = torch.randn(shape[0], generator=generator) if upstream == "per sample" else torch.tensor(upstream)
    if by.ndim:
        by[1] = 4.0  # after the divisor: a sample that stays as it is, beside others that do not
    scaled = gradient.to(DEVICE, copy=True)
    scales = torch.full(shape[:1], 4.0)
    backend.scale_gradient_(scaled, by.to(DEVICE), scales.to(DEVICE))
    factor = (by / scales).expand(shape[0])[:, None]
    torch.testing.assert_close(scaled.cpu(), (gradient.float() * factor).to(dtype), rtol=0, atol=0, equal_nan=True)
