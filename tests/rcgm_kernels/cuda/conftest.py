"""Where the CUDA kernels run: on a GPU where there is one, and everywhere on an emulated device.

That is the kernels' own source compiled for the host (cuda_emulation/cuda_runtime.h), which also checks barriers,
shared memory and launch configurations.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from rcgm_kernels.backends import cuda
from rcgm_kernels.options import LossOptions
from rcgm_kernels.plan import Results, new_results
from tests.support.compiled import make_all, run
from tests.support.cuda_builds import (
    EMULATION,
    HEADERS,
    ROOT,
    SOURCES,
    bindings,
    compilations,
    host_compiler,
    load_extension,
)
from tests.support.cuda_cases import Place


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModuleType, ctypes.CDLL]:
    folder = tmp_path_factory.mktemp("emulated")
    compiler, flags = host_compiler(), ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-w"]
    flags += ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"]  # a GPU faults at what a CPU forgives
    includes = [f"-I{EMULATION}", f"-I{ROOT / 'csrc'}"]
    headers, sources = (*HEADERS, *EMULATION.glob("*.h")), [*SOURCES, EMULATION / "emulation.cpp"]
    objects = compilations(folder, (compiler, *flags, *includes, "-x", "c++"), sources, headers)
    make_all([*objects, bindings(folder / "bindings.o", "-O0", "-fvisibility=hidden")])
    library = folder / "_cuda.so"
    run([compiler, "-shared", *[str(path) for path in folder.glob("*.o")], "-lpthread", "-o", str(library)])
    handle = ctypes.CDLL(str(library))
    handle.emulated_launches.restype = ctypes.c_int64
    return load_extension(library), handle


@pytest.fixture(params=["emulated", "gpu"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if request.param == "gpu":
        reason = cuda.unavailable()
        if reason is not None:
            pytest.skip(reason)
        here = Place(torch.device("cuda", 0), cuda._cuda)
    else:
        module, library = request.getfixturevalue("emulated")
        here = Place(torch.device("cpu"), module, library)
        monkeypatch.setattr(cuda, "_cuda", module)
    launch_on_gpu = cuda._launch

    def launch(name: str, device: torch.device, *arguments: object) -> None:
        if name == "residual_loss":
            here.losses.append(arguments)
        if request.param == "gpu":
            launch_on_gpu(name, device, *arguments)
        else:
            getattr(cuda._cuda, name)((here.index, 0), *arguments)

    def results(pred: Tensor, dtype: torch.dtype, options: LossOptions) -> Results:
        made = new_results(pred, dtype, options)
        return tuple(None if tensor is None else here.empty(tuple(tensor.shape), tensor.dtype) for tensor in made)

    def empty(*shape, dtype: torch.dtype, device: torch.device) -> Tensor:
        assert torch.device(device).type == here.device.type
        sizes = shape[0] if isinstance(shape[0], tuple) else shape
        return here.empty(tuple(sizes), dtype)

    monkeypatch.setattr(cuda, "_launch", launch)
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(cuda, "new_results", results)
    here.emulate()
    yield here
    if request.param == "emulated":
        assert library.emulated_counters_are_zero()
    here.check_guards()
