"""What the CUDA backend's host code asks of the runtime: streams and devices, and what becomes of errors."""

from __future__ import annotations

import pytest
import torch

from rcgm_kernels.backends import cuda
from tests.support.cuda_cases import F32, METRICS, Case
from tests.support.ptx import checks
from tests.support.ptx.cuda_device import STREAM
from tests.support.ptx.cuda_runtime import INVALID_CLUSTER, LARGE_CLUSTERS, LAUNCH_FAILED, MORE_SHARED, Runtime
from tests.support.ptx.loss_cases import SPLITS


def set_up(device: Runtime, name: str) -> Case:
    case, settings, _ = SPLITS[name]
    device.multiprocessors = 4
    for setting, value in settings.items():
        setattr(device, setting, value)
    return case


def test_kernels_run_where_the_tensors_are(device: Runtime) -> None:
    x, t = torch.ones(3, 40), torch.full((3,), 0.5)
    checks.loss_agrees("cuda", Case(3, 40, (F32,) * 3))
    cuda.scale_gradient_(x, t, torch.ones(0))
    cuda.interpolate(x, x, t[None], t[None], F32)
    cuda.advance_(x.clone(), x, x, t, t)
    cuda.ema_update_([x], [x.clone()], 0.5, [])
    assert [launch.kernel for launch in device.launches] == [
        "on_chip_kernel", "scale_kernel", "interpolate_kernel", "advance_kernel", "ema_kernel"
    ]  # fmt: skip
    assert {(launch.device, launch.stream) for launch in device.launches} == {(device.number, STREAM)}
    assert device.device == 0


@pytest.mark.parametrize("name", ["streamed", "two passes", "sixteen blocks a sample", "channels, eight blocks"])
def test_a_failed_launch_is_an_error_once(device: Runtime, name: str) -> None:
    case = set_up(device, name)
    device.failures["launch"] = [LAUNCH_FAILED]
    with pytest.raises(RuntimeError, match=r"kernel.* failed: error 719"):
        checks.loss_agrees("cuda", case)
    checks.loss_agrees("cuda", case)


def test_a_cluster_that_the_launch_refuses_is_an_error(device: Runtime) -> None:
    case = set_up(device, "eight blocks a sample")
    device.failures["launch"] = [INVALID_CLUSTER]
    with pytest.raises(RuntimeError, match="error 912"):
        checks.loss_agrees("cuda", case)


@pytest.mark.parametrize(
    ("name", "attribute"), [("no clusters", MORE_SHARED), ("sixteen blocks a sample", LARGE_CLUSTERS)]
)
def test_kernels_ask_for_what_is_more_than_usual(device: Runtime, name: str, attribute: int) -> None:
    checks.loss_agrees("cuda", set_up(device, name))
    assert attribute in [which for _, which in device.allowed]
    device.allowed.clear()
    checks.loss_agrees("cuda", Case(3, 40, (F32,) * 3, **METRICS["cosine"]))
    assert not device.allowed


@pytest.mark.parametrize(("name", "cluster"), [("eight blocks a sample", 4), ("channels, eight blocks", 4)])
def test_a_cluster_that_the_device_cannot_have_is_made_smaller(device: Runtime, name: str, cluster: int) -> None:
    case = set_up(device, name)
    device.failures["clusters"] = [INVALID_CLUSTER]
    checks.loss_agrees("cuda", case)
    assert [launch.grid.cluster for launch in device.launches] == [cluster]


def test_whether_a_cluster_fits_is_asked_once(device: Runtime) -> None:
    case = set_up(device, "two blocks a sample")
    checks.loss_agrees("cuda", case)
    checks.loss_agrees("cuda", case)
    assert device.calls.count("launch") == 2
    assert device.calls.count("clusters") == 1


def test_asking_for_a_device_leaves_the_current_one(device: Runtime) -> None:
    cuda._runs_on.cache_clear()
    before = device.device
    assert cuda._runs_on(before + 1)
    assert device.device == before
    assert "find" in device.calls
