"""The implementations that run here, and the loss that several modules test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from rcgm_kernels import fused_loss
from tests.support.implementations import cpu_implementations, running
from tests.support.predictions import BATCH, SIZE


@pytest.fixture(params=cpu_implementations())
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each implementation that runs on a CPU in turn: the backend to name in a call."""
    with running(request.param) as name:
        yield name


@pytest.fixture
def loss_of(backend) -> Callable[..., Tensor]:
    """The loss of order 1 of a prediction ``[5, 700]``, against the same segment, velocity and times each time."""
    generator = torch.Generator().manual_seed(0)
    segment, velocity = torch.randn(2, BATCH, SIZE, generator=generator)
    times = torch.tensor([[0.9], [0.8], [0.1]]).expand(3, BATCH)

    def loss(pred: Tensor, **options) -> Tensor:
        return fused_loss(pred, [segment], velocity, times, backend=backend, **options)

    return loss
