"""The largest batch, and the largest network, that trains on one device, by objective.

    python -m benchmarks.capacity                  a GPU: DiT-XL/2 and networks larger than it, until memory is full
    python -m benchmarks.capacity --seconds 120    stop the search earlier; what was found is kept
    python -m benchmarks.capacity --budget-mib 64  a CPU: the same search against a budget for the bytes of tensors

Every try is two training steps in a process of its own on a GPU, where an allocator that has once been full is not the
one that began; a CPU counts bytes and tries in this process. Networks are DiT-XL/2 with more heads of 72 and, in
proportion, more blocks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import environment
from benchmarks.limits import first_line
from benchmarks.memory import high_water
from benchmarks.step_variants import CLASSES, VARIANTS, Bench
from benchmarks.steps import unavailable
from rcgm.models import DiT

ROOT = Path(__file__).parent.parent
NAMES = (
    "flow matching", "RCGM, order 2, rollout", "RCGM, order 4, jump", "MeanFlow, central difference",
    "MeanFlow, jvp without gradient", "MeanFlow, jvp with gradient", "MeanFlow, jvp without gradient, flash",
    "MeanFlow, jvp with gradient, flash",
)  # fmt: skip
FULL = 3  # exit code of a try that ran out of memory
HEADS, BLOCKS, HEAD_SIZE = 16, 28, 72  # DiT-XL


@dataclass(frozen=True)
class Try:
    """Two steps of a variant: a batch of ``batch`` with a DiT of ``heads`` heads and blocks in proportion."""

    variant: str
    batch: int
    heads: int
    small: bool = False

    def network(self) -> tuple[str, tuple[int, int, int], dict[str, int]]:
        """Preset, shape of a sample, and the arguments that differ from the preset's."""
        if self.small:
            arguments = {"hidden_size": 16 * self.heads, "depth": max(1, self.heads // 2), "num_heads": self.heads}
            return "nano/2", (4, 8, 8), arguments
        arguments = {
            "hidden_size": HEAD_SIZE * self.heads, "depth": round(BLOCKS * self.heads / HEADS),
            "num_heads": self.heads,
        }  # fmt: skip
        return "XL/2", (4, 32, 32), arguments

    def bench(self, device: torch.device) -> Bench:
        preset, shape, arguments = self.network()
        return Bench(preset, shape, device, torch.float32 if self.small else torch.bfloat16, **arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1200.0 if device.type == "cuda" else 60.0, help="in all")
    parser.add_argument("--budget-mib", type=float, default=64.0, help="of tensors, on a CPU (64)")
    parser.add_argument("--variant", action="append", choices=NAMES, help="may be repeated; all by default")
    parser.add_argument("--name", default=f"capacity_{device.type}", help="name of the result file")
    parser.add_argument("--try", dest="one", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one is not None:
        sys.exit(attempt(Try(**json.loads(given.one)), device))
    search(given, device)


def search(given: argparse.Namespace, device: torch.device) -> None:
    """Find both limits of every variant; the file holds what is known so far."""
    small = device.type == "cpu"
    budget = given.budget_mib * 2**20 if small else None
    base = 4 if small else HEADS
    fits = within_budget(budget) if small else in_own_process
    end = time.perf_counter() + given.seconds
    memory = budget if small else torch.cuda.get_device_properties(device).total_memory
    result: dict[str, Any] = {
        "environment": environment.describe(device), "bytes": memory, "small": small, "rows": [],
    }  # fmt: skip
    chosen = [variant for variant in VARIANTS if variant.name in (given.variant or NAMES)]
    for variant in chosen:
        row: dict[str, Any] = {"variant": variant.name, "family": variant.family, "error": unavailable(variant)}
        result["rows"].append(row)
        if row["error"] is not None:
            continue
        row["batch"] = largest(lambda n, name=variant.name: fits(Try(name, n, base, small)), 1, 4096, end, step=1)
        row["heads"] = largest(lambda n, name=variant.name: fits(Try(name, 4, n, small)), base, 16 * base, end, step=2)
        if row["heads"]["fits"]:
            row["parameters"] = parameters(Try(variant.name, 1, row["heads"]["fits"], small))
        environment.write(given.name, result)
        print(f"{variant.name:<40} batch {told(row['batch'])}   heads {told(row['heads'])}", flush=True)
    print(f"written to {environment.write(given.name, result)}")


def largest(fits: Callable[[int], bool], first: int, most: int, end: float, *, step: int) -> dict[str, int | None]:
    """The largest of ``first, first + step, ...`` that fits: doubled until it does not, then bisected to an eighth.

    Returns ``fits``, the largest that did (None: not even the first), and ``fails``, the smallest that did not (None:
    not found, the range or the time being over).
    """
    good, bad, number = None, None, first
    while number <= most and time.perf_counter() < end:
        if not fits(number):
            bad = number
            break
        good, number = number, 2 * number
    while good and bad and bad - good > max(step, good // 8) and time.perf_counter() < end:
        middle = good + max(step, (bad - good) // 2 // step * step)
        if fits(middle):
            good = middle
        else:
            bad = middle
    return {"fits": good, "fails": bad}


def told(found: dict[str, int | None]) -> str:
    return f"{found['fits'] or 'none'} (not {found['fails'] or 'known'})"


def parameters(one: Try) -> int:
    """Of the network of a try, counted without memory for them."""
    preset, shape, arguments = one.network()
    with torch.device("meta"):
        network = DiT.from_preset(
            preset, input_size=shape[1:], in_channels=shape[0], num_classes=CLASSES, **arguments
        )  # fmt: skip
    return sum(parameter.numel() for parameter in network.parameters())


def in_own_process(one: Try) -> bool:
    """Whether two steps fit the GPU.

    Raises:
        RuntimeError: the try ended with anything but success or full memory.
    """
    command = [sys.executable, "-m", "benchmarks.capacity", "--try", json.dumps(asdict(one))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, FULL):
        raise RuntimeError(f"{one} ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    return done.returncode == 0


def within_budget(budget: float) -> Callable[[Try], bool]:
    """Whether the state and the highest point of a step stay within ``budget`` bytes."""

    def fits(one: Try) -> bool:
        device = torch.device("cpu")
        bench = one.bench(device)
        step = bench.step(next(variant for variant in VARIANTS if variant.name == one.variant), one.batch)
        step()  # makes the optimizer's state
        return bench.state_bytes() + high_water(step, device) <= budget

    return fits


def attempt(one: Try, device: torch.device) -> int:
    """Two steps in this process: 0, or ``FULL``."""
    try:
        step = one.bench(device).step(next(variant for variant in VARIANTS if variant.name == one.variant), one.batch)
        for _ in range(2):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except torch.OutOfMemoryError as error:
        print(first_line(error))
        return FULL
    return 0


if __name__ == "__main__":
    main()
