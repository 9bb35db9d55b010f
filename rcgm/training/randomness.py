"""Where the random numbers of a run come from: a generator per step, so that a resumed run draws the same ones."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rcgm.shares import Processes

__all__ = [
    "Purpose",
    "global_random_state",
    "mixed_seed",
    "restore_global_random_state",
    "separate_global_generators",
]


class Purpose(IntEnum):
    """What a generator is for; the same seed gives independent numbers to each."""

    TRAINING = 0
    INITIALISATION = 1
    PREVIEW = 2
    EVALUATION = 3
    SAMPLING = 4
    GLOBAL = 5


def mixed_seed(seed: int, purpose: Purpose, *key: int) -> int:
    """A seed below 2**32 in which every bit depends on all of ``seed``, ``purpose`` and ``key`` (say step, micro-step).

    torch's CPU generator uses the low 32 bits of its seed only.
    """
    return int(np.random.SeedSequence((seed, int(purpose), *key)).generate_state(1, np.uint32)[0])


def global_random_state(device: torch.device, processes: Processes) -> dict[str, Tensor]:
    """torch's global generators of all processes, uint8 tensors: what dropout and the like draw from."""
    own = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(device)
    states = {}
    for kind, state in own.items():
        of_all = [torch.empty_like(state) for _ in range(processes.count)]
        if processes.count > 1:
            dist.all_gather(of_all, state)
        else:
            of_all = [state]
        states.update({f"{kind}.{rank}": of_one for rank, of_one in enumerate(of_all)})
    return states


def restore_global_random_state(
    states: dict[str, Tensor], device: torch.device, processes: Processes, fresh_seed: int
) -> None:
    """Undo :func:`global_random_state`. What was not there then is seeded, from ``fresh_seed`` and the rank."""
    torch.manual_seed(mixed_seed(fresh_seed, Purpose.GLOBAL, processes.rank))
    state = states.get(f"cpu.{processes.rank}")
    if state is not None:
        torch.set_rng_state(state)
    state = states.get(f"cuda.{processes.rank}")
    if device.type == "cuda" and state is not None:
        torch.cuda.set_rng_state(state, device)


def separate_global_generators(seed: int, processes: Processes) -> None:
    """Give every process but the first numbers of its own: dropout is to differ, initial weights are to be alike."""
    if not processes.first:
        torch.manual_seed(mixed_seed(seed, Purpose.GLOBAL, processes.rank))
