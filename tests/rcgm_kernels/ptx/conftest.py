"""Where the machine code of the GPU backends runs on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.ptx.cuda_device import build, device_in_place
from tests.support.ptx.cuda_runtime import Runtime
from tests.support.ptx.memory import Memory
from tests.support.ptx.triton_device import compiling_process


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return Runtime(build(tmp_path_factory.mktemp("ptx")), Memory())


@pytest.fixture
def device(built: Runtime, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    """The CUDA backend's own host code and nvcc's PTX of its kernels, on CPU tensors."""
    with device_in_place(built, monkeypatch):
        yield built


@pytest.fixture(scope="session")
def compiled() -> Iterator[Callable[..., Any]]:
    """Calls ``(function, *arguments)`` where the Triton backend compiles for sm_90 and its PTX is interpreted."""
    pytest.importorskip("triton")
    with compiling_process() as call:
        yield call
