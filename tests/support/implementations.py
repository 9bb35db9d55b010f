"""The ways to run an operation on a CPU, and what they run in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rcgm_kernels.backends import cpu, triton


def cpu_implementations() -> tuple[str, ...]:
    """``"reference"`` and, for each instruction set that runs here, ``"cpu/<name>"``."""
    sets = () if cpu.unavailable() else cpu.instruction_sets()
    return ("reference", *(f"cpu/{name}" for name in sets))


def all_implementations() -> tuple[str, ...]:
    """Those of the CPU, and ``"triton"`` where its interpreter runs."""
    interpreted = triton.unavailable() is None and triton.supports(torch.device("cpu"))
    return (*cpu_implementations(), *(["triton"] if interpreted else []))


@contextmanager
def running(implementation: str) -> Iterator[str]:
    """The backend to name in a call, with its instruction set forced, and new memory full of NaN."""
    backend, _, instruction_set = implementation.partition("/")
    with environment(cpu.ISA_ENVIRONMENT, instruction_set or None), poisoned_memory():
        yield backend


@contextmanager
def environment(name: str, value: str | None) -> Iterator[None]:
    before = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fill what ``torch.empty`` and its like return with NaN, so that an element left unwritten shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
