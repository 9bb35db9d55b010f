"""The seeds of all random numbers: a function of the seed of a run, of what they are for, and of a key of numbers."""

from __future__ import annotations

import hashlib
from enum import Enum

import torch

__all__ = ["Purpose", "seed_of", "seeded_generator"]


class Purpose(Enum):
    """What random numbers are for, and the key that each use is told apart by."""

    TRAINING = "times, noise and dropped labels of a training step: step"
    INITIAL_WEIGHTS = "initial weights of the student"
    OBJECTIVE_WEIGHTS = "initial weights of what an objective learns"
    DISCRIMINATOR_WEIGHTS = "initial weights of a discriminator"
    DISCRIMINATOR = "noise and times of the samples that a discriminator sees: step"
    GLOBAL = "torch's global generators, which dropout draws from: process, step"
    ORDER = "order of the data: epoch, and number of the shape where samples have several"
    AUGMENTATION = "random changes of a sample: epoch, index"
    ENCODING = "latents drawn from an encoder: image, whether flipped"
    PREVIEW = "noise of the samples drawn while training: number of the sample"
    EVALUATION = "noise of the samples that are measured: number of the sample"
    SAMPLING = "noise of the samples of the command: number of the sample"


def seed_of(seed: int, purpose: Purpose, *key: int) -> int:
    """A seed below 2^63 whose every bit depends on all of ``seed``, ``purpose`` and ``key``, their number included.

    torch's CPU generators use its low 32 bits only, so that two of n keys share their numbers by chance with a
    probability of n^2/2^33; no two do so by their form.
    """
    text = repr((purpose.name, int(seed), *map(int, key)))  # from which all of them can be read back
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def seeded_generator(seed: int, purpose: Purpose, *key: int) -> torch.Generator:
    """A generator on the CPU, seeded with :func:`seed_of`."""
    return torch.Generator().manual_seed(seed_of(seed, purpose, *key))
