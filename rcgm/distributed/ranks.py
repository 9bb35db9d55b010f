"""The processes of commands that encode or sample: they differ in speed by hours and share nothing but a few values."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed

__all__ = ["Ranks", "running_ranks"]

LONGEST_WAIT = timedelta(days=30)
"""For the slowest rank: ranks may differ by hours, and torchrun ends them all where one fails."""


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, and how many there are."""

    rank: int
    world_size: int

    def wait(self) -> None:
        """Wait for all."""
        if self.world_size > 1:
            torch.distributed.barrier()

    def gathered(self, value: Any) -> list[Any]:
        """``value`` of each rank, in all of them."""
        values = [value] * self.world_size
        if self.world_size > 1:
            torch.distributed.all_gather_object(values, value)
        return values


@contextlib.contextmanager
def running_ranks(device: str) -> Iterator[Ranks]:
    """The ranks that torchrun has started, or this process alone.

    Args:
        device: "auto", "cpu" or "cuda"; with a GPU each rank of a machine takes its own.
    """
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if world_size == 1:
        yield Ranks(rank, world_size)
        return
    torch.distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
    try:
        yield Ranks(rank, world_size)
    finally:
        torch.distributed.destroy_process_group()
