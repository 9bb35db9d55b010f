"""Random numbers that are a function of what they are for."""

from __future__ import annotations

import numpy as np
import torch


def keyed_generator(*key: int) -> torch.Generator:
    """A generator on the CPU, seeded from the non-negative numbers of the key."""
    # torch's CPU generator uses the low 32 bits of a seed, so neighbouring keys have to be mixed well into those.
    mixed = int(np.random.SeedSequence(key).generate_state(1, np.uint32)[0])
    return torch.Generator().manual_seed(mixed)
