"""Where the random numbers of a run come from: a generator per step, so that a resumed run draws the same ones."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

__all__ = ["Purpose", "global_random_state", "mixed_seed", "restore_global_random_state"]


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


def global_random_state(device: torch.device) -> dict[str, Tensor]:
    """torch's global generators, uint8 tensors: what dropout and the like draw from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_global_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Undo :func:`global_random_state`. The state of a GPU is left alone where the run now goes on without one."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
