"""Checkpoints that are written while training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from rcgm.distributed.shares import Processes
from rcgm.runs.checkpoint import save_checkpoint, snapshot

__all__ = ["CheckpointWriter"]


class CheckpointWriter:
    """Writes the checkpoints of a run, one at a time.

    Args:
        folder: of the checkpoints.
        keep: how many are kept.
        processes: that write them together.
        background: copy the tensors to the CPU and write them in a thread. Its errors are raised by the next
            :meth:`save` or by :meth:`wait`.
    """

    def __init__(self, folder: Path, *, keep: int, processes: Processes, background: bool) -> None:
        self._folder = folder
        self._keep = keep
        self._processes = processes
        # A group of its own: the messages of the thread must not mix with those of the training.
        self._group = dist.new_group(backend="gloo") if processes.world_size > 1 else None
        self._thread = ThreadPoolExecutor(1, "checkpoint") if background else None
        self._pending: Future | None = None

    def save(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        """Write a checkpoint, see :func:`~rcgm.runs.checkpoint.save_checkpoint`, once the last one is written."""
        self.wait()
        copies = snapshot(tensors)
        if self._thread is None:
            self._write(step, copies, dict(state))
        else:
            self._pending = self._thread.submit(self._write, step, copies, dict(state))

    def wait(self) -> None:
        """Wait until the last checkpoint is written. Raises what the writing raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait for the last checkpoint, and ignore its errors."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)
        group, self._group = self._group, None
        if group is not None:
            dist.destroy_process_group(group)

    def _write(self, step: int, copies: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        save_checkpoint(
            self._folder, step, copies, state, keep=self._keep, processes=self._processes, group=self._group
        )
