"""Builds the CUDA backend for the runtime without a device, and puts it in the place of the real one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rcgm_kernels.backends import cuda
from tests.support.compiled import Compilation, make_all, run
from tests.support.cuda_builds import bindings, compilations, host_compiler, load_extension, nvcc
from tests.support.ptx.cuda_runtime import Runtime
from tests.support.ptx.watching import tensors, watched

RUNTIME = Path(__file__).with_name("cuda_runtime.cpp")
PTX_FLAGS = ("-O3", "-std=c++17", "-Xcompiler=-fPIC", "-gencode=arch=compute_90,code=compute_90", "--no-compress")


def build(folder: Path) -> Path:
    """The extension with the PTX of its kernels for sm_90 in it."""
    compiler = nvcc()
    objects = compilations(folder, (compiler, *PTX_FLAGS))
    hidden = "-Xcompiler=-fPIC,-fvisibility=hidden"
    runtime = Compilation((compiler, "-O1", "-std=c++17", hidden, "-c", str(RUNTIME)), folder / "runtime.o", (RUNTIME,))
    make_all([*objects, runtime, bindings(folder / "bindings.o", "-O1", "-fvisibility=hidden")])
    library = folder / "_cuda.so"
    paths = [str(path) for path in sorted(folder.glob("*.o"))]
    run([host_compiler(), "-shared", "-Wl,-Bsymbolic", *paths, "-lpthread", "-o", str(library)])
    return library


@contextmanager
def device_in_place(runtime: Runtime, patch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    """The CUDA backend takes CPU tensors as those of the runtime's device, and runs its kernels in the interpreter."""

    class Selected:
        """torch.cuda.device: torch and the runtime share what the driver has selected."""

        def __init__(self, device: torch.device | int) -> None:
            self.index = device if isinstance(device, int) else device.index

        def __enter__(self) -> None:
            self.before, runtime.device = runtime.device, runtime.device if self.index is None else self.index

        def __exit__(self, *_: object) -> None:
            runtime.device = self.before

    launch = cuda._launch

    def launched(name: str, device: torch.device, *arguments: object) -> None:
        for tensor in tensors(arguments):
            runtime.memory.add(tensor, f"an argument of {name}", writable=True)
        try:
            launch(name, torch.device("cuda", runtime.number), *arguments)
        finally:
            runtime.raise_error()

    runtime.reset()
    patch.setattr(cuda, "_cuda", load_extension(runtime.library))
    patch.setattr(cuda, "_launch", launched)
    patch.setattr(torch.cuda, "device", Selected)
    patch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=runtime.stream))
    with watched(cuda, runtime.memory):
        yield runtime
    assert not any(variable.any() for variable in runtime.variables(runtime.number))  # no counter is left above 0
