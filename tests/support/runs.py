"""Run in several processes by ``test_runs.py``: ``rcgm train``, and a process that dies at the worst moment."""

from __future__ import annotations

import os
import signal
from typing import Any

from rcgm.cli import main
from rcgm.distributed import running_processes
from rcgm.runs import checkpoint
from rcgm.training import step


def die_in_step(number: int) -> None:
    original = step.TrainStep.__call__

    def call(self: step.TrainStep, current: int, *arguments: Any, **options: Any) -> Any:
        if current == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, current, *arguments, **options)

    step.TrainStep.__call__ = call


def die_in_checkpoint(number: int) -> None:
    """After this process's files are written, one of them cut in half."""
    original = checkpoint.dcp.save

    def save(content: Any, *, storage_writer: Any, **options: Any) -> None:
        original(content, storage_writer=storage_writer, **options)
        if f"step_{number:08d}" in str(storage_writer.path):
            own = f"shard-{int(os.environ['RANK']) + 1:05d}-*"
            path = max(storage_writer.path.glob(own), key=lambda path: path.stat().st_size)
            with open(path, "r+b") as stream:
                stream.truncate(path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.dcp.save = save


def train_until_told_to_stop(arguments: list[str], rank: int, number: int) -> int:
    """``rcgm train``, in which the process ``rank`` alone gets a SIGTERM in a step."""
    if rank == int(os.environ["RANK"]):
        original = step.TrainStep.__call__

        def call(self: step.TrainStep, current: int, *others: Any, **options: Any) -> Any:
            if current == number:
                signal.raise_signal(signal.SIGTERM)
            return original(self, current, *others, **options)

        step.TrainStep.__call__ = call
    return main(["train", *arguments])


def train_in_turn(*runs: list[str]) -> int:
    """``rcgm train`` with each list of arguments, in one process group; the first exit code that is not 0."""
    with running_processes("cpu"):
        for arguments in runs:
            code = main(["train", *arguments])
            if code:
                return code
    return 0


def train_and_die(arguments: list[str], rank: int, where: str, number: int) -> int:
    """``rcgm train``, in which the process ``rank`` kills itself in a step, or in the checkpoint of one."""
    if rank == int(os.environ["RANK"]):
        (die_in_step if where == "step" else die_in_checkpoint)(number)
    return main(["train", *arguments])
