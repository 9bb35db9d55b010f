"""The CUDA code compiles without spills, and says why it cannot run."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from rcgm_kernels.backends import cuda
from tests.support.compiled import make_all, run
from tests.support.cuda_builds import bindings, device_objects, host_compiler, nvcc


@dataclass
class Build:
    report: str  # of ptxas
    extension: Path


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The extension for three architectures, as setup.py builds it, and what ptxas says of its kernels."""
    folder = tmp_path_factory.mktemp("cuda")
    report, objects = device_objects(folder)
    make_all([bindings(folder / "bindings.o", "-O1")])
    home = Path(nvcc()).resolve().parent.parent
    libraries = [f"-L{home / name}" for name in ("lib64", "lib") if (home / name).exists()]
    extension = folder / "_cuda.so"
    paths = [str(path) for path in [*objects, folder / "bindings.o"]]
    system = ["-lcudart_static", "-ldl", "-lrt", "-lpthread"]
    run([host_compiler(), "-shared", *paths, *libraries, *system, "-o", str(extension)])
    return Build(report, extension)


def test_kernels_use_no_local_memory(build: Build) -> None:
    usage = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", build.report)
    assert len(usage) >= 40 * len(set(re.findall(r"for '(sm_\d+)'", build.report)))
    assert set(usage) == {("0", "0", "0")}
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", build.report)]
    assert max(registers) <= 128


def test_extension_can_be_imported_without_a_device(build: Build) -> None:
    code = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('_cuda', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print('problem:', module.problem())\n"
    )
    said = run([sys.executable, "-c", code, str(build.extension)])
    if torch.cuda.is_available():
        assert said == "problem: \n"
    else:
        assert "no usable CUDA device or driver" in said


def test_unavailable_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoDriver:
        @staticmethod
        def problem() -> str:
            return "there is no usable CUDA device or driver (no CUDA-capable device is detected)"

    monkeypatch.setattr(cuda, "_cuda", NoDriver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    reason = cuda.unavailable.__wrapped__()
    assert "finds no CUDA device" in reason
    assert "no CUDA-capable device is detected" in reason
    monkeypatch.setattr(cuda, "_cuda", None)
    monkeypatch.setattr(cuda, "_IMPORT_ERROR", ImportError("no such file"), raising=False)
    assert "RCGM_CUDA=1 pip install" in cuda.unavailable.__wrapped__()


def test_cpu_tensors_are_not_supported() -> None:
    assert not cuda.supports(torch.device("cpu"))
