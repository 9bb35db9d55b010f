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

# Tests without a number that a processor's vector instructions or the number of threads could change; all others are
# marked ``numbers``. The kernels of CUDA and Triton are emulated without a GPU, by code that is the same everywhere.
WITHOUT_NUMBERS = (
    "rcgm/data",
    "rcgm/test_cli.py",
    "rcgm/test_cli_failures.py",
    "rcgm/test_config.py",
    "rcgm/test_config_numbers.py",
    "rcgm/test_configs.py",
    "rcgm/test_files.py",
    "rcgm/test_plots.py",
    "rcgm/encoding/test_buckets.py",
    "rcgm/encoding/test_sources.py",
    "rcgm/runs/test_layouts.py",
    "rcgm/runs/test_prompt_files.py",
    "rcgm/distributed/test_endings.py",
    "rcgm/distributed/test_shares.py",
    "rcgm/inspection/test_memory.py",
    "rcgm_kernels/test_arguments.py",
    "rcgm_kernels/test_backends.py",
    "rcgm_kernels/cuda",
    "rcgm_kernels/test_memory.py",
    "rcgm_kernels/ptx",
    "rcgm_kernels/triton",
    "rcgm_kernels/test_numbering.py",
    "test_capacity_benchmark.py",
    "test_configurations.py",
    "test_contributing.py",
    "test_costs.py",
    "test_gpu_check.py",
    "test_models_page.py",
    "test_rooms.py",
    "test_setup.py",
    "test_site.py",
    "test_when_something_goes_wrong.py",
)

# Networks so small that torch shares none of their operators out among threads: the others are marked ``threads``.
ON_ONE_THREAD = (
    "rcgm/distributed/test_shared_roles.py",
    "rcgm/encoding",
    "rcgm/inspection",
    "rcgm/networks",
    "rcgm/roles",
    "rcgm/test_configs.py",
    "rcgm/test_sample_prompts.py",
    "rcgm/training/test_lora_runs.py",
    "rcgm/training/test_text_dit_run.py",
    "rcgm/training/test_text_lora_run.py",
    "rcgm/training/test_text_run.py",
)


@pytest.hookimpl(tryfirst=True)  # before those that -m leaves out are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name = item.path.relative_to(ROOT).as_posix()
        if not _is_in(name, WITHOUT_NUMBERS):
            item.add_marker(pytest.mark.numbers)
            if not _is_in(name, ON_ONE_THREAD):
                item.add_marker(pytest.mark.threads)


def _is_in(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}/") for place in places)
