"""Philox4x32-10 and Box-Muller in plain tensors: what the kernels' noise (csrc/common/noise.h) is compared with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
STEPS = 0x9E3779B9, 0xBB67AE85
MASK = 0xFFFFFFFF

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def words(counter: Words, key: tuple[Tensor, Tensor]) -> Words:
    """Philox4x32-10 (Salmon et al. 2011) on int64 tensors that hold 32-bit words."""
    x, y, z, w = counter
    low, high = key
    for _ in range(ROUNDS):
        first, second = x * MULTIPLIERS[0], z * MULTIPLIERS[1]  # wrap around at 2^64, which leaves all bits in place
        x, y, z, w = _high(second) ^ y ^ low, second & MASK, _high(first) ^ w ^ high, first & MASK
        low, high = (low + STEPS[0]) & MASK, (high + STEPS[1]) & MASK
    return x, y, z, w


def normals(seed: Tensor, samples: Tensor, stream: int, blocks: Tensor) -> Tensor:
    """The four standard normal numbers of every block ``[..., 4]``, float32; ``samples`` and ``blocks`` broadcast.

    Computed in float64 from the uniform numbers of the kernels, which are rounded to float32, and rounded at the end.
    """
    samples, blocks = torch.broadcast_tensors(samples, blocks)
    counter = blocks, torch.full_like(blocks, stream), samples & MASK, _high(samples)
    x, y, z, w = words(counter, (seed & MASK, _high(seed)))
    return torch.stack([*_pair(x, y), *_pair(z, w)], dim=-1).float()


def _pair(radial: Tensor, angular: Tensor) -> tuple[Tensor, Tensor]:
    uniform = radial.double().float() * 2**-32 + 2**-33
    radius = torch.sqrt(-2 * uniform.double().log())
    angle = angular.double() * (2 * math.pi * 2**-32)
    return radius * angle.cos(), radius * angle.sin()


def _high(values: Tensor) -> Tensor:
    return (values >> 32) & MASK
