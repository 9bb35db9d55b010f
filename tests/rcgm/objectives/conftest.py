"""A network small enough to be evaluated sample by sample."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

CLASSES = 4


class RandomNetwork(nn.Module):
    """Two hidden layers with random weights, of states, times and a class; class ``CLASSES`` is the null one."""

    def __init__(self, seed: int, dtype: torch.dtype, dimensions: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def weights(*shape: int, scale: float) -> nn.Parameter:
            return nn.Parameter(scale * torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))

        width = 12
        self.table = weights(CLASSES + 1, width, scale=0.5)
        self.first = weights(dimensions + 2, width, scale=0.7)
        self.second = weights(width, width, scale=0.4)
        self.last = weights(width, dimensions, scale=0.5)

    def forward(self, x: Tensor, t: Tensor, r: Tensor, cond: Tensor | None = None) -> Tensor:
        columns = [x.flatten(1), t[:, None].to(x.dtype), r[:, None].to(x.dtype)]
        hidden = torch.cat(columns, 1) @ self.first
        if cond is not None:
            hidden = hidden + self.table[cond]
        hidden = torch.tanh(torch.tanh(hidden) @ self.second)
        return (hidden @ self.last).reshape(x.shape)


@pytest.fixture
def random_network() -> Callable[..., RandomNetwork]:
    """Builds networks: ``random_network(seed, dtype=float64, dimensions=3)``."""

    def build(seed: int, dtype: torch.dtype = torch.float64, dimensions: int = 3) -> RandomNetwork:
        return RandomNetwork(seed, dtype, dimensions)

    return build
