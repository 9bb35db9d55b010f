"""torch's global generators in a run, from which dropout and similar modules draw."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from rcgm.distributed.shares import Processes
from rcgm.seeds import Purpose, seed_of

__all__ = [
    "global_random_state",
    "global_random_state_kept",
    "restore_global_random_state",
    "separate_global_generators",
]


def global_random_state(device: torch.device, processes: Processes) -> dict[str, Tensor]:
    """State of torch's global generators of all processes, uint8 tensors."""
    own = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(device)
    states = {}
    for kind, state in own.items():
        of_all = [torch.empty_like(state) for _ in range(processes.world_size)]
        if processes.world_size > 1:
            dist.all_gather(of_all, state)
        else:
            of_all = [state]
        states.update({f"{kind}.{rank}": of_one for rank, of_one in enumerate(of_all)})
    return states


def restore_global_random_state(
    states: dict[str, Tensor], device: torch.device, processes: Processes, *, seed: int, step: int
) -> None:
    """Undo :func:`global_random_state`. Missing states are seeded from ``seed``, ``step`` and the rank."""
    torch.manual_seed(seed_of(seed, Purpose.GLOBAL, processes.rank, step))
    state = states.get(f"cpu.{processes.rank}")
    if state is not None:
        torch.set_rng_state(state)
    state = states.get(f"cuda.{processes.rank}")
    if device.type == "cuda" and state is not None:
        torch.cuda.set_rng_state(state, device)


def separate_global_generators(seed: int, processes: Processes) -> None:
    """Seed the generators of all ranks but 0 anew: dropout must differ between ranks, initial weights must not."""
    if not processes.is_main:
        torch.manual_seed(seed_of(seed, Purpose.GLOBAL, processes.rank, 0))


@contextlib.contextmanager
def global_random_state_kept(device: torch.device) -> Iterator[None]:
    """Restore torch's global generators after the body, so that looking at a run does not change its training."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
