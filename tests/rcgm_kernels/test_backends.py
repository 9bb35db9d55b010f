"""Which backend runs, and what is said where none can."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rcgm_kernels
from rcgm_kernels import advance, ema_update_, fused_loss, fused_residual_loss, interpolate
from rcgm_kernels.__main__ import describe
from rcgm_kernels.backends import BACKENDS, ENVIRONMENT, choose, cpu, cuda, reference, triton
from tests.support.implementations import cpu_implementations, environment

CPU = torch.device("cpu")
X, T = torch.ones(2, 3), torch.tensor([0.5, 0.5])
KNOTS = torch.tensor([[0.9, 0.9], [0.1, 0.1]])
OPERATIONS = {
    "fused_loss": lambda **backend: fused_loss(X, [], X, KNOTS, **backend),
    "fused_residual_loss": lambda **backend: fused_residual_loss(X, [], KNOTS[:0], **backend),
    "interpolate": lambda **backend: interpolate(X, X, KNOTS, KNOTS, **backend),
    "advance": lambda **backend: advance(X, X, T, T, **backend),
    "ema_update_": lambda **backend: ema_update_([X.clone()], [X], 0.5, **backend),
}


@pytest.fixture(autouse=True)
def no_environment():
    with environment(ENVIRONMENT, None), environment(cpu.ISA_ENVIRONMENT, None):
        yield


def test_the_compiled_backend_is_there():
    # Without it the tests of all the others would pass and prove little.
    assert cpu.unavailable() is None
    assert cpu_implementations()[-1] == "cpu/baseline"


def test_the_fastest_that_supports_the_device_is_chosen(monkeypatch):
    for backend in (cuda, triton):
        monkeypatch.setattr(backend, "unavailable", lambda: None)
        monkeypatch.setattr(backend, "supports", lambda device: device.type == "cuda")
    assert choose(None, CPU) is cpu
    assert choose(None, torch.device("meta")) is reference
    monkeypatch.setattr(cpu, "unavailable", lambda: "made so")
    assert choose(None, CPU) is reference
    assert choose(None, torch.device("cuda", 0)) is cuda
    monkeypatch.setattr(cuda, "unavailable", lambda: "made so")
    assert choose(None, torch.device("cuda", 0)) is triton
    monkeypatch.setattr(triton, "unavailable", lambda: "made so")
    assert choose(None, torch.device("cuda", 0)) is reference


def test_cuda_is_not_asked_about_tensors_on_the_cpu(monkeypatch):
    monkeypatch.setattr(cuda, "unavailable", lambda: pytest.fail("asked"))
    assert choose(None, CPU) is cpu


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_the_backend_that_is_named_runs(operation, monkeypatch):
    ran = []
    for backend in (cpu, reference):
        for name in ("residual_loss", "interpolate", "advance_", "ema_update_"):
            original = getattr(backend, name)

            def spy(*arguments, original=original, backend=backend):
                ran.append(backend.NAME)
                return original(*arguments)

            monkeypatch.setattr(backend, name, spy)
    operation()
    operation(backend="reference")
    operation(backend="cpu")
    with environment(ENVIRONMENT, "reference"):
        operation()
        operation(backend="cpu")  # what the call says goes
    with environment(ENVIRONMENT, ""):
        operation()
    assert ran == ["cpu", "reference", "cpu", "reference", "cpu", "cpu"]


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_a_backend_that_cannot_run_is_an_error(operation, monkeypatch):
    with pytest.raises(ValueError, match=rf"backend must be one of {', '.join(BACKENDS)}, got 'cublas'"):
        operation(backend="cublas")
    with environment(ENVIRONMENT, "cublas"), pytest.raises(ValueError, match=r"RCGM_BACKEND must be one of .*'cublas'"):
        operation()
    monkeypatch.setattr(cuda, "unavailable", lambda: "made so")
    with pytest.raises(ValueError, match=r"backend 'cuda' is not available here: made so"):
        operation(backend="cuda")
    with (
        environment(ENVIRONMENT, "cuda"),
        pytest.raises(ValueError, match=r"RCGM_BACKEND 'cuda' is not available here"),
    ):
        operation()
    monkeypatch.setattr(cuda, "unavailable", lambda: None)
    monkeypatch.setattr(cuda, "supports", lambda device: device.type == "cuda")
    with pytest.raises(ValueError, match=r"backend 'cuda' does not run on cpu tensors"):
        operation(backend="cuda")


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_an_instruction_set_that_is_not_there_is_an_error(operation):
    names = ", ?".join(cpu.instruction_sets())
    with environment(cpu.ISA_ENVIRONMENT, "sse9"), pytest.raises(ValueError, match=f"RCGM_CPU_ISA.*{names}.*sse9"):
        operation(backend="cpu")
    for name in cpu.instruction_sets():
        with environment(cpu.ISA_ENVIRONMENT, name):
            operation(backend="cpu")


def test_without_the_extension_the_reference_takes_over():
    # A source tree that nobody has built: the import must work, and say what is missing.
    script = (
        "import sys; sys.modules['rcgm_kernels._cpu'] = None\n"
        "import torch, rcgm_kernels\n"
        "from rcgm_kernels.backends import choose, cpu\n"
        "assert choose(None, torch.device('cpu')).NAME == 'reference'\n"
        "rcgm_kernels.ema_update_([torch.zeros(2)], [torch.ones(2)], 0.5)\n"
        "print(cpu.unavailable())\n"
    )
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    variables["PYTHONPATH"] = str(Path(rcgm_kernels.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    assert "could not be loaded" in done.stdout
    assert "pip install" in done.stdout


def test_the_report_names_every_backend_and_the_choice():
    report = describe()
    for name in BACKENDS:
        assert f"  {name}" in report
    assert ", ".join(cpu.instruction_sets()) in report
    assert report.splitlines()[-1 - torch.cuda.device_count()].split() == ["cpu", "cpu"]
    with environment(ENVIRONMENT, "cublas"):
        assert "none: RCGM_BACKEND must be one of" in describe()


def test_the_kernels_need_nothing_of_the_training_package():
    allowed = {*sys.stdlib_module_names, "numpy", "rcgm_kernels", "torch", "triton"}
    for path in Path(rcgm_kernels.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert {name.partition(".")[0] for name in names} <= allowed, path
