"""Conversions to and from float16 and bfloat16, over all their 65,536 patterns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rcgm_kernels import advance, ema_update_, interpolate
from tests.support.cases import HALVES
from tests.support.implementations import cpu_implementations, running

ZERO = torch.zeros(1)


def every_pattern(dtype: torch.dtype) -> Tensor:
    return torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)


def every_rounding(dtype: torch.dtype) -> Tensor:
    """Numbers of ``dtype`` in float32, the ties half way between neighbours, and what lies just beside these."""
    numbers = every_pattern(dtype).float()
    numbers = numbers[numbers.isfinite()].unique()
    ties = (numbers[1:].double() + numbers[:-1].double()).div(2).float()
    largest = torch.finfo(dtype).max
    beyond = torch.tensor([largest * (1 + 2.0**-k) for k in range(1, 24)] + [3.4e38, torch.inf, torch.nan])
    # NaN whose low bits are all set, or alone: rounded like numbers they would become zero, or infinity.
    payloads = torch.tensor([2**31 - 1, 0x7F80_0001, -1, 0x7F80_0001 - 2**31], dtype=torch.int32).view(torch.float32)
    values = torch.cat([numbers, ties, beyond, -beyond, payloads])
    up, down = torch.full_like(values, torch.inf), torch.full_like(values, -torch.inf)
    return torch.cat([values, torch.nextafter(values, up), torch.nextafter(values, down)])


def bits_are_equal(actual: Tensor, expected: Tensor) -> bool:
    """Of the same bits, the sign of zero too; of NaN only that it is one."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[expected.element_size()]
    same = actual.view(integers) == expected.view(integers)
    return actual.dtype == expected.dtype and bool((same | (actual.isnan() & expected.isnan())).all())


def copied(values: Tensor, dtype: torch.dtype, backend: str) -> Tensor:
    """``values`` converted by a step of length 0."""
    out = torch.empty(1, len(values), dtype=dtype)
    return advance(values[None], torch.zeros_like(values)[None], ZERO, ZERO, out=out, backend=backend)[0]


@pytest.mark.parametrize("implementation", cpu_implementations())
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("odd", [False, True])  # bfloat16 is read two at a time where the count is even
def test_widening(implementation, dtype, odd):
    values = every_pattern(dtype)
    values = torch.cat([values, values[:1]]) if odd else values
    with running(implementation) as backend:
        assert bits_are_equal(copied(values, torch.float32, backend), values.float())
        assert bits_are_equal(copied(values, dtype, backend), values)
        assert bits_are_equal(copied(values, torch.float64, backend), values.double())


@pytest.mark.parametrize("implementation", cpu_implementations())
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("odd", [False, True])
def test_narrowing_rounds_to_nearest_even(implementation, dtype, odd):
    values = every_rounding(dtype)
    values = torch.cat([values, values[: (len(values) % 2) ^ odd]])
    with running(implementation) as backend:
        assert bits_are_equal(copied(values, dtype, backend), values.to(dtype))


@pytest.mark.parametrize("implementation", cpu_implementations())
@pytest.mark.parametrize("dtype", HALVES)
def test_products_are_narrowed_alike(implementation, dtype):
    # All of one dtype, as in training: in bfloat16 two results share a word.
    values = every_pattern(dtype)[None]
    half, zero = torch.full((1, 1), 0.7), torch.zeros(1, 1)
    with running(implementation) as backend:
        points = interpolate(values, torch.zeros_like(values), zero, half, backend=backend)
    expected = (values.float() * torch.tensor(0.7) + 0.0).to(dtype)
    assert bits_are_equal(points[0], expected)


@pytest.mark.parametrize("implementation", cpu_implementations())
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("master", [torch.float32, torch.float64])
def test_the_copy_of_a_moving_average_is_torchs_own_conversion(implementation, dtype, master):
    values = every_rounding(dtype).to(master)
    average, copy = values.clone(), torch.zeros(len(values), dtype=dtype)
    with running(implementation) as backend:
        ema_update_([average], [values], 0.0, [copy], backend=backend)
    finite = values.isfinite()
    assert torch.equal(average[finite], values[finite])
    assert bits_are_equal(copy, average.to(dtype))
