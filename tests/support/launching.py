"""Processes of a run on this machine, with what torchrun gives them.

They are forked from one that has imported the libraries already, which takes longer than most tests.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["rcgm.cli", "rcgm.training", "rcgm.plots", "torch._dynamo", "torch._inductor.compile_fx"]
)


@dataclass(frozen=True)
class Rank:
    """A process, the file that it prints to, and where the processes meet."""

    process: multiprocessing.process.BaseProcess
    file: Path
    store: TCPStore

    @property
    def code(self) -> int | None:
        return self.process.exitcode

    @property
    def output(self) -> str:
        return self.file.read_text(errors="replace")


def start_ranks(
    function: Callable[..., int | None], arguments: tuple[Any, ...], count: int, folder: Path
) -> list[Rank]:
    """Call ``function`` in ``count`` processes; what they print goes to files in ``folder``."""
    # As torchrun's, the store is the caller's: its port is taken from the start, so that no other program can get it.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
    }
    ranks = []
    for rank in range(count):
        environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        file = folder / f"output_{store.port}_{rank}.txt"
        process = CONTEXT.Process(target=_call, args=(function, arguments, environment, file), daemon=False)
        process.start()
        ranks.append(Rank(process, file, store))
    return ranks


def finish(ranks: list[Rank], *, timeout: float = 1800) -> None:
    """Wait for all, and kill what is left after ``timeout`` seconds: it hangs, however slow the machine is."""
    try:
        for rank in ranks:
            rank.process.join(timeout)
    finally:
        for rank in ranks:
            rank.process.kill()
            rank.process.join()


def run_ranks(function: Callable[..., int | None], arguments: tuple[Any, ...], count: int, folder: Path) -> None:
    """Call ``function`` in ``count`` processes together; all have to succeed."""
    ranks = start_ranks(function, arguments, count, folder)
    finish(ranks)
    assert all(rank.code == 0 for rank in ranks), endings(ranks)


def endings(ranks: list[Rank]) -> str:
    """How each process ended and what it printed: where one crashes, the others tell only of a lost connection."""
    return "\n".join(f"rank {number} ended with {rank.code}:\n{rank.output}" for number, rank in enumerate(ranks))


def _call(function: Callable[..., int | None], arguments: tuple[Any, ...], environment: dict, file: Path) -> None:
    os.environ.update(environment)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    faulthandler.enable()  # a crash in native code prints the stacks of Python
    torch.set_num_threads(1)
    sys.exit(function(*arguments))
