"""Roles on small networks, away from their initial values."""

from __future__ import annotations

import torch
from torch import nn

from rcgm.roles import Role, lora_role
from tests.support.small_dit import drawn


def small_role(rank: int = 2, dtype: torch.dtype = torch.float32, network: nn.Module | None = None, **options) -> Role:
    """A role on ``network``, or on a small DiT, whose adapter changes what it predicts."""
    torch.manual_seed(0)
    role = lora_role(drawn(dtype) if network is None else network, rank=rank, **options)
    disturb(role, 1)
    return role


@torch.no_grad()
def disturb(role: nn.Module, seed: int, std: float = 0.2) -> None:
    """Move the parameters of ``role`` by random numbers."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in role.parameters():
        parameter += std * torch.randn(parameter.shape, generator=generator)
