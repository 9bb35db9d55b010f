"""The CUDA backend's host code and the PTX that nvcc makes for sm_90, run on the CPU, against the reference."""

from __future__ import annotations

import pytest
import torch

from rcgm_kernels.backends import cuda
from tests.support.cuda_cases import BF16, F16, F32, F64, Case
from tests.support.ptx import checks
from tests.support.ptx.cuda_runtime import Runtime
from tests.support.ptx.loss_cases import OTHER_CASES, SPLITS, channel_cases, dtype_cases, metric_cases, order_cases

LOSSES = dtype_cases({2: 300, 301: 3, 1024: 3, 4096: 2, 17003: 2}) | metric_cases({2: 300, 301: 3, 4096: 2, 20001: 1})
LOSSES |= order_cases({96: 4, 5000: 2}) | channel_cases({(2, 2): 3, (4, 64): 3, (37, 40): 2, (128, 3): 3})
LOSSES |= OTHER_CASES


@pytest.mark.parametrize("name", LOSSES)
def test_losses(device: Runtime, name: str) -> None:
    device.multiprocessors = 4
    checks.loss_agrees("cuda", LOSSES[name])


@pytest.mark.parametrize("name", SPLITS)
def test_every_way_to_split_the_work(device: Runtime, name: str) -> None:
    case, settings, kernels = SPLITS[name]
    device.multiprocessors = 4
    for setting, value in settings.items():
        setattr(device, setting, value)
    checks.loss_agrees("cuda", case)
    assert [(launch.kernel, launch.grid.cluster) for launch in device.launches] == kernels


@pytest.mark.parametrize("layout", ["from an odd element", "of odd rows"])
@pytest.mark.parametrize("size", [64, 5000])
@pytest.mark.parametrize("dtype", [BF16, F32, F64])
def test_unaligned_views(device: Runtime, dtype: torch.dtype, size: int, layout: str) -> None:
    checks.loss_agrees("cuda", Case(3, size, (dtype,) * 3), layout)
    checks.loss_agrees("cuda", SPLITS["a block a sample"][0], layout)


@pytest.mark.parametrize("size", [12, 900, 5000])
def test_idle_terms_are_not_read(device: Runtime, size: int) -> None:
    checks.idle_terms_are_not_read("cuda", size)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("size", [3, 301, 5000])
def test_a_bad_sample_stays_alone(device: Runtime, size: int, bad: float) -> None:
    checks.bad_sample_stays_alone("cuda", size, bad)


@pytest.mark.parametrize(("batch", "size"), checks.PATH_SHAPES)
@pytest.mark.parametrize("dtypes", checks.PATH_DTYPES)
def test_path(device: Runtime, dtypes: str, batch: int, size: int) -> None:
    checks.path_agrees("cuda", checks.PATH_DTYPES[dtypes], batch, size)


@pytest.mark.parametrize("dtype", [BF16, F16, F32, F64])
@pytest.mark.parametrize("upstream", [torch.tensor(3.25), torch.tensor([0.5, 1.0, 2.5])])
def test_scaling_of_gradients(device: Runtime, upstream: torch.Tensor, dtype: torch.dtype) -> None:
    checks.scaling_agrees("cuda", dtype, upstream, 3, 5000)


@pytest.mark.parametrize("dtypes", checks.EMA_DTYPES)
@pytest.mark.parametrize("decay", [0.0, 0.4, 0.999, 1.0])
def test_average(device: Runtime, decay: float, dtypes: str) -> None:
    checks.average_agrees("cuda", checks.EMA_DTYPES[dtypes], decay)


def test_average_of_more_tensors_than_a_launch_takes(device: Runtime) -> None:
    averages, params = ([torch.full((1 + k % 3,), float(start + k)) for k in range(801)] for start in (0, 1))
    cuda.ema_update_(averages, params, 0.75, [])
    assert [launch.kernel for launch in device.launches] == ["ema_kernel", "ema_kernel"]
    for k, average in enumerate(averages):
        assert (average == k + 0.25).all()
