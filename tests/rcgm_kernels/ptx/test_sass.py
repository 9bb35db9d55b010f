"""The machine code for sm_90 of the hot loops: several vectors are asked for before one is waited for.

Without that, a loop reads at the latency of the memory instead of at its bandwidth.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rcgm_kernels.options import Metric
from tests.support.cuda_builds import built_extension
from tests.support.cuda_cases import BF16, F32, Case
from tests.support.ptx import checks, triton_device
from tests.support.ptx.sass import Kernel, kernels_of_cubin, kernels_of_library, loads_under_way, tool

HALF, FLOAT = "UniformI13__nv_bfloat16Li8E", "UniformIfLi4E"
# (source, parts of the mangled name): vectors under way in the loop over the elements. Four terms are combined at once.
CUDA = {
    ("loss_stream", "stream_kernel", HALF): 4,
    ("loss_stream", "stream_kernel", FLOAT): 4,
    ("loss_on_chip", "on_chip_kernel", HALF): 4,
    ("loss_on_chip", "on_chip_kernel", FLOAT): 4,
    ("path", "interpolate_kernel", HALF): 2,
    ("path", "interpolate_kernel", FLOAT): 4,
    ("path", "advance_kernel", HALF): 2,
    ("path", "advance_kernel", FLOAT): 4,
    ("scale", "scale_kernel", HALF): 1,
    ("scale", "scale_kernel", FLOAT): 1,
    ("ema", "ema_kernel", "Li800E"): 4,
}
SOURCES = {"loss_channels", *(source for source, *_ in CUDA)}
# Vectors under way in Triton's kernels, which hold all they work on at once and have no loop, in both dtypes.
TRITON = {
    "whole_samples": {BF16: 6, F32: 4},
    "sums_of_samples": {BF16: 6, F32: 4},
    "gradient_of_samples": {BF16: 4, F32: 4},
    "_interpolate": {BF16: 4, F32: 8},
    "_advance": {BF16: 4, F32: 3},
    "_scale": {BF16: 2, F32: 4},
    "_ema": {BF16: 6, F32: 8},
}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Kernel]]:
    """The kernels of each source of the CUDA backend."""
    tool("nvdisasm")
    folder, library = tmp_path_factory.mktemp("sass"), built_extension()
    return {source: kernels_of_library(library, source, "sm_90", folder) for source in SOURCES}


@pytest.mark.parametrize(("source", "name", "storage"), CUDA)
def test_loops_of_cuda_kernels(kernels: dict[str, list[Kernel]], source: str, name: str, storage: str) -> None:
    (kernel,) = [each for each in kernels[source] if name in each.name and storage in each.name]
    assert loads_under_way(kernel.hot_loop()) >= CUDA[source, name, storage]


@pytest.mark.parametrize("storage", [HALF, FLOAT])
def test_loops_of_channels(kernels: dict[str, list[Kernel]], storage: str) -> None:
    """Both loops over the channels: that of the terms, and that of the gradient, which reads the prediction again."""
    (kernel,) = [each for each in kernels["loss_channels"] if storage in each.name]
    fours = [loop for loop in kernel.loops if sum(each.loads_vector for each in loop) == 4 and len(loop) < 256]
    stores = [sum(each.name.startswith("STG") for each in loop) for loop in fours]
    assert {0, 4} <= set(stores)
    assert {loads_under_way(loop) for loop in fours} == {4}


@pytest.mark.parametrize("storage", [HALF, FLOAT])
@pytest.mark.parametrize("source", ["loss_stream", "loss_on_chip", "loss_channels"])
def test_losses_begin_with_one_wait(kernels: dict[str, list[Kernel]], source: str, storage: str) -> None:
    """A lane asks for two knots of its own, the first two, weight and scale; each load is there for two dtypes."""
    (kernel,) = [each for each in kernels[source] if storage in each.name]
    assert loads_under_way(kernel.instructions, of_any_size=True) >= 12


def test_cuda_kernels_spill_no_registers(kernels: dict[str, list[Kernel]]) -> None:
    spilling = [each.name for several in kernels.values() for each in several if each.uses_local_memory()]
    assert spilling == []


def compiled_kernels(dtype: torch.dtype) -> dict[str, list[bytes]]:
    """The machine code for sm_90a of what a loss, a path and an average run, by the kernel's name."""
    for metric, size in ((Metric(), 4096), (Metric(), 20480), (Metric("pseudo_huber"), 20480)):
        checks.loss_agrees("triton", Case(2, size, (dtype,) * 4, times=True, metric=metric))
    checks.path_agrees("triton", (dtype,) * 3, 4, 4096)
    checks.scaling_agrees("triton", dtype, torch.tensor(3.0), 4, 4096)
    checks.average_agrees("triton", (F32, dtype, BF16), 0.999)
    found: dict[str, list[bytes]] = {}
    for name, machine_code in triton_device.MACHINE_CODE.values():
        found.setdefault(name, []).append(machine_code)
    return found


@pytest.mark.parametrize("dtype", [BF16, F32])
def test_triton_kernels(compiled: Callable[..., Any], tmp_path: Path, dtype: torch.dtype) -> None:
    tool("nvdisasm")
    under_way: dict[str, int] = {}
    for name, several in compiled(compiled_kernels, dtype).items():
        for index, machine_code in enumerate(several):
            path = tmp_path / f"{name}{index}.cubin"
            path.write_bytes(machine_code)
            (kernel,) = kernels_of_cubin(path)
            assert not kernel.uses_local_memory(), name
            under_way[name] = max(under_way.get(name, 0), loads_under_way(kernel.instructions))
    too_few = {name: count for name, count in under_way.items() if count < TRITON.get(name, {dtype: 0})[dtype]}
    assert set(TRITON) <= set(under_way)
    assert too_few == {}
