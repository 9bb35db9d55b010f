"""What the tests run in, set before torch or triton is imported, and which of them compare numbers."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path

import hypothesis
import pytest

# The same examples in every run, however slow the machine is.
hypothesis.settings.register_profile("same", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("same")

ROOT = Path(__file__).parent

# Small tensors: threads wait for one another longer than they work. Tests of thread counts set their own.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# torch.compile would start a pool of processes that import torch, which takes longer than what they compile here.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
# Inductor keeps what it compiled by its source alone: code for AVX2 would be taken for a processor without.
if os.environ.get("ATEN_CPU_CAPABILITY"):
    kept = f"torchinductor_{getpass.getuser()}_{os.environ['ATEN_CPU_CAPABILITY']}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(tempfile.gettempdir(), kept))

# Without a GPU, Triton's kernels run in its interpreter; the variable is read when they are defined.
if not os.path.exists("/dev/nvidia0"):
    os.environ.setdefault("TRITON_INTERPRET", "1")
# What a user's shell, or a job under torchrun, may have set for other ends.
for name in ("RCGM_BACKEND", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
    os.environ.pop(name, None)

# Tests that compare numbers of ours with a reference, to a bound: they are marked ``numbers``, and run once more as
# other processors compute them. Without a GPU the kernels of CUDA and Triton are emulated, by code that is the same
# everywhere.
NUMBERS = (
    "rcgm/derivatives",
    "rcgm/engine",
    "rcgm/evaluation",
    "rcgm/models",
    "rcgm/networks/test_networks.py",
    "rcgm/objectives",
    "rcgm/roles",
    "rcgm/sampling",
    "rcgm/test_gaussian.py",
    "rcgm/test_gaussian_table.py",
    "rcgm/test_seeds.py",
    "rcgm/training/test_ema.py",
    "rcgm/training/test_guidance_input_run.py",
    "rcgm/training/test_loss_by_time.py",
    "rcgm/training/test_micro_batches.py",
    "rcgm/training/test_objective_state.py",
    "rcgm/training/test_optimizers.py",
    "rcgm/training/test_randomness.py",
    "rcgm/training/test_train_step.py",
    "rcgm/transports",
    "rcgm_kernels",
)
WITHOUT_NUMBERS = (
    "rcgm_kernels/cuda",
    "rcgm_kernels/ptx",
    "rcgm_kernels/test_arguments.py",
    "rcgm_kernels/test_backends.py",
    "rcgm_kernels/test_memory.py",
    "rcgm_kernels/test_numbering.py",
    "rcgm_kernels/triton",
)
# Networks so small that torch shares none of their operators out among threads: the others are marked ``threads``.
ON_ONE_THREAD = ("rcgm/networks", "rcgm/roles")


@pytest.hookimpl(tryfirst=True)  # before those that -m leaves out are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name = item.path.relative_to(ROOT).as_posix()
        if _is_in(name, NUMBERS) and not _is_in(name, WITHOUT_NUMBERS):
            item.add_marker(pytest.mark.numbers)
            if not _is_in(name, ON_ONE_THREAD):
                item.add_marker(pytest.mark.threads)


def _is_in(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}/") for place in places)
