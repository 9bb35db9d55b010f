"""What the tests run in, set before torch or triton is imported, and which of them compare numbers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent

# Small tensors: threads wait for one another longer than they work. Tests of thread counts set their own.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Without a GPU, Triton's kernels run in its interpreter; the variable is read when they are defined.
if not os.path.exists("/dev/nvidia0"):
    os.environ.setdefault("TRITON_INTERPRET", "1")
# What a user's shell, or a job under torchrun, may have set for other ends.
for name in ("RCGM_BACKEND", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
    os.environ.pop(name, None)

# The tests whose numbers a processor's vector instructions or the number of threads can change. The kernels of CUDA and
# Triton are not among them: without a GPU they are emulated, by code that is the same on every processor.
NUMBERS = (
    "rcgm/derivatives",
    "rcgm/evaluation",
    "rcgm/models",
    "rcgm/objectives",
    "rcgm/parallel",
    "rcgm/sampling",
    "rcgm/training",
    "rcgm/transports",
    "rcgm/test_captured.py",
    "rcgm/test_combination.py",
    "rcgm/test_engine.py",
    "rcgm/test_gaussian.py",
    "rcgm/test_gaussian_table.py",
    "rcgm/test_schedules.py",
    "rcgm/test_times.py",
    "rcgm_kernels/test_coefficients.py",
    "rcgm_kernels/test_ema.py",
    "rcgm_kernels/test_loss_agreement.py",
    "rcgm_kernels/test_loss_autograd.py",
    "rcgm_kernels/test_loss_formulas.py",
    "rcgm_kernels/test_noise.py",
    "rcgm_kernels/test_path.py",
    "rcgm_kernels/test_storage_dtypes.py",
    "test_benchmarks.py",
    "test_docs.py",
    "test_fidelity.py",
    "test_readme.py",
    "test_step_benchmark.py",
)


@pytest.hookimpl(tryfirst=True)  # before those that -m leaves out are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name = item.path.relative_to(ROOT).as_posix()
        if any(name == path or name.startswith(path + "/") for path in NUMBERS):
            item.add_marker(pytest.mark.numbers)
