"""What the CUDA backend's host code asks of the runtime: streams and devices, and what becomes of errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rcgm_kernels.backends import cuda
from tests.support.cuda_cases import F32, METRICS, Case
from tests.support.ptx import checks
from tests.support.ptx.cuda_runtime import (
    INVALID_CLUSTER,
    LARGE_CLUSTERS,
    LAUNCH_FAILED,
    MORE_SHARED,
    STREAM,
    Runtime,
)
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


SEVERAL_BLOCKS = Case(6, 4096, (F32,) * 2)
COUNTERS, COUNTERS_OF_STREAMS = 16384, 1024


def counter_of_a_loss(device: Runtime, stream: int, *, capturing: bool = False) -> int | None:
    """Which of the device's counters a loss on this stream gets; None: one of its own."""
    device.stream, device.is_capturing = stream, capturing
    checks.loss_agrees("cuda", SEVERAL_BLOCKS)
    parameters = device.launches[-1].parameters
    addresses = np.frombuffer(parameters, np.uint64, len(parameters) // 8)
    (counters,) = (each for each in device.variables(device.number) if len(each) == 4 * COUNTERS)
    offsets = addresses.astype(np.int64) - counters.data_ptr()
    found = offsets[(offsets >= 0) & (offsets < len(counters))]
    return int(found[0]) // 4 if len(found) else None


def test_launches_that_may_run_at_once_share_no_counter(device: Runtime) -> None:
    first = counter_of_a_loss(device, 1001)
    captured = [counter_of_a_loss(device, 1001, capturing=True) for _ in range(3)]
    second = counter_of_a_loss(device, 1002)
    assert counter_of_a_loss(device, 1001) == first
    assert len({first, second, *captured}) == 5
    assert max(first, second) < COUNTERS_OF_STREAMS <= min(captured)


def test_more_streams_than_counters_clear_one_of_their_own(device: Runtime) -> None:
    device.failures["launch"] = [LAUNCH_FAILED] * COUNTERS_OF_STREAMS
    for stream in range(COUNTERS_OF_STREAMS):
        device.stream = 2000 + stream
        with pytest.raises(RuntimeError, match="719"):
            checks.loss_agrees("cuda", SEVERAL_BLOCKS)
    before = device.calls.count("clear")
    assert counter_of_a_loss(device, 9999) is None
    assert device.calls.count("clear") == before + 1
    assert counter_of_a_loss(device, 2000) < COUNTERS_OF_STREAMS
    device.number += 1  # other tests have a device with counters
