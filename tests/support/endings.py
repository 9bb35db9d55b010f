"""Runs of two processes to their very end, the interpreter's included.

::

    python -m tests.support.endings --runs 40

makes many, on a machine that it keeps busy, and prints how many ended well; the exit code is 1 if any did not. Each
process is a Python of its own: those of ``launching.py`` are forked, and end without taking an interpreter down.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from rcgm.cli import main as rcgm
from rcgm.config.yaml_text import dump_yaml
from rcgm.training import interrupts, trainer

ROOT = Path(__file__).parents[2]
SHORT = {
    "steps": 3,
    "batch_size": 4,
    "device": "cpu",
    "data": {"name": "two_moons", "size": 20},
    "model": {"name": "mlp", "width": 4, "depth": 1, "frequency_size": 4},
    "objective": {"name": "rcgm", "order": 1},
    "checkpoint": {"every": 100},
    "logging": {"every": 100, "tensorboard": False},
    "sample": {"every": 0},
    "evaluate": {"at_end": False},
}
"""The last message of such a run is on its way when the last step is made."""

MESSAGES = (
    *("all_reduce", "all_gather", "all_gather_into_tensor", "broadcast", "gather", "isend", "irecv"),
    *("reduce_scatter", "reduce_scatter_tensor", "reduce", "scatter", "barrier", "all_to_all", "all_to_all_single"),
)


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that do nothing but compute."""
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in load:
            process.kill()
            process.wait()


def train_and_count(arguments: list[str]) -> int:
    """``rcgm train``; the exit code is 1 if it has begun a message between the processes that it never waited for."""
    begun: list[dist.Work] = []
    waited: list[dist.Work] = []

    def noted(function: Callable[..., dist.Work | None]) -> Callable[..., dist.Work | None]:
        def call(*arguments: Any, **options: Any) -> dist.Work | None:
            work = function(*arguments, **options)
            if work is not None:
                begun.append(work)
            return work

        return call

    for name in MESSAGES:
        setattr(dist, name, noted(getattr(dist, name)))
    wait = dist.Work.wait

    def call(self: dist.Work, *arguments: Any) -> bool:
        waited.append(self)
        return wait(self, *arguments)

    dist.Work.wait = call
    code = rcgm(["train", *arguments])
    left = [work for work in begun if not any(work is other for other in waited)]
    print(f"{len(begun)} begun, {len(left)} left")
    return code or int(not begun or bool(left))


def fail_while_the_other_is_stuck(arguments: list[str]) -> int:
    """``rcgm train``, in which the first process fails and the second does not answer, nor end."""
    interrupts.PATIENCE = timedelta(seconds=0.5)
    first = os.environ["RANK"] == "0"
    agreed, advance = interrupts.StopRequest.agreed, trainer.Trainer._advance

    def stuck(self: interrupts.StopRequest) -> bool:
        return agreed(self) if first else time.sleep(600)

    def failing(self: trainer.Trainer, *others: Any) -> None:
        if self.step == 1:
            raise RuntimeError("a disk is broken")
        advance(self, *others)

    interrupts.StopRequest.agreed, trainer.Trainer._advance = stuck, failing
    try:
        return rcgm(["train", *arguments])
    except RuntimeError as error:
        print(error)
        return 3


def short_run(folder: Path) -> list[str]:
    """The arguments of ``rcgm train`` for a short run in ``folder``, which is made."""
    folder.mkdir()
    config = folder / "short.yaml"
    config.write_text(dump_yaml(SHORT))
    return [str(config), "--output", str(folder / "run")]


def problem(folder: Path) -> str:
    """How a run in ``folder`` did not end well; nothing if it did."""
    arguments = short_run(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.late_vote", str(folder / "flag"), *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1", **common, "RANK": rank, "LOCAL_RANK": rank},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        printed = [rank.communicate(timeout=300)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    codes = [rank.returncode for rank in ranks]
    if codes == [0, 0] and (folder / "run/summary.json").is_file():
        return ""
    return f"{folder.name}: exit codes {codes}\n" + "\n".join(printed)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--busy", type=int, default=os.cpu_count(), help="processes that keep the machine busy")
    options = parser.parse_args(arguments)
    bad = 0
    with tempfile.TemporaryDirectory() as root, busy(options.busy):
        for number in range(options.runs):
            found = problem(Path(root) / str(number))
            bad += bool(found)
            if found:
                print(found, flush=True)
    print(f"{options.runs - bad} of {options.runs} runs ended well")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
