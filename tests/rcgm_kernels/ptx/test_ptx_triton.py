"""The PTX that Triton makes for sm_90, run on the CPU, against the reference in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rcgm_kernels.options import Metric
from tests.support.cuda_cases import BF16, F16, F32, F64, Case
from tests.support.ptx import checks, triton_device
from tests.support.ptx.loss_cases import OTHER_CASES, channel_cases, dtype_cases, metric_cases, order_cases

# Several samples a program, one a program, and several programs a sample.
SIZES = {2: 5, 301: 3, 1024: 2, 4096: 2, 17000: 2}
LOSSES = dtype_cases(SIZES) | metric_cases({301: 3, 17000: 2}) | order_cases({4096: 2, 17000: 2}) | OTHER_CASES
LOSSES |= channel_cases({(4, 64): 3, (37, 40): 2, (200, 300): 1})
LAYOUTS = ["from an odd element", "of odd rows"]


@pytest.mark.parametrize("name", LOSSES)
def test_losses(compiled: Callable[..., Any], name: str) -> None:
    compiled(checks.loss_agrees, "triton", LOSSES[name])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [301, 17000])
def test_unaligned_views(compiled: Callable[..., Any], size: int, layout: str) -> None:
    compiled(checks.loss_agrees, "triton", Case(3, size, (BF16,) * 3), layout)


@pytest.mark.parametrize("size", [301, 17000])
def test_idle_terms_are_not_read(compiled: Callable[..., Any], size: int) -> None:
    compiled(checks.idle_terms_are_not_read, "triton", size)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("size", [301, 17000])
def test_a_bad_sample_stays_alone(compiled: Callable[..., Any], size: int, bad: float) -> None:
    compiled(checks.bad_sample_stays_alone, "triton", size, bad)


@pytest.mark.parametrize(("batch", "size"), checks.PATH_SHAPES)
@pytest.mark.parametrize("dtypes", checks.PATH_DTYPES)
def test_path(compiled: Callable[..., Any], dtypes: str, batch: int, size: int) -> None:
    compiled(checks.path_agrees, "triton", checks.PATH_DTYPES[dtypes], batch, size)


@pytest.mark.parametrize("dtype", [BF16, F16, F32, F64])
@pytest.mark.parametrize("upstream", [torch.tensor(3.25), torch.tensor([0.5, 1.0, 2.5])])
def test_scaling_of_gradients(compiled: Callable[..., Any], upstream: torch.Tensor, dtype: torch.dtype) -> None:
    compiled(checks.scaling_agrees, "triton", dtype, upstream, 3, 5000)


@pytest.mark.parametrize("dtypes", checks.EMA_DTYPES)
@pytest.mark.parametrize("decay", [0.0, 0.4, 0.999, 1.0])
def test_average(compiled: Callable[..., Any], decay: float, dtypes: str) -> None:
    compiled(checks.average_agrees, "triton", checks.EMA_DTYPES[dtypes], decay)


def launches_of(case: Case) -> list[triton_device.Launch]:
    checks.loss_agrees("triton", case)
    return triton_device.LAUNCHES


@pytest.mark.parametrize(
    ("size", "kernels"),
    [(4096, ["whole_samples"]), (17000, ["sums_of_samples", "finish_samples", "gradient_of_samples"])],
)
def test_kernels_of_a_loss(compiled: Callable[..., Any], size: int, kernels: list[str]) -> None:
    launches = compiled(launches_of, Case(2, size, (BF16,) * 3, metric=Metric("pseudo_huber")))
    assert [launch.kernel for launch in launches] == kernels
