"""The CUDA code compiles without spills, and says why it cannot run."""

from __future__ import annotations

import sys

import pytest
import torch

from rcgm_kernels.backends import cuda
from tests.support.compiled import run
from tests.support.cuda_builds import built_extension
from tests.support.ptx.sass import resource_usage

SPILLED = {"sm_120": 8}
"""Bytes a thread: two kernels lack two registers there, so that three blocks fit on a multiprocessor."""


def test_kernels_use_no_local_memory() -> None:
    """Registers that spill would be in local memory."""
    usage = resource_usage(built_extension())
    assert {each.architecture for each in usage} >= {"sm_80", "sm_90"}
    for architecture in {each.architecture for each in usage}:
        kernels = [each for each in usage if each.architecture == architecture]
        assert len(kernels) >= 40
        spilled = SPILLED.get(architecture, 0)
        assert [each.kernel for each in kernels if each.stack > spilled or each.local] == []
        assert max(each.registers for each in kernels) <= 128


def test_extension_can_be_imported_without_a_device() -> None:
    code = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('_cuda', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print('problem:', module.problem())\n"
    )
    said = run([sys.executable, "-c", code, str(built_extension())])
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
