"""A prediction, and the gradient of its loss in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BATCH, SIZE = 5, 700


def prediction(dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    values = torch.randn(BATCH, SIZE, generator=torch.Generator().manual_seed(seed))
    return values.to(dtype).requires_grad_()


def gradient_of(loss_of: Callable[..., Tensor], pred: Tensor, **options) -> Tensor:
    """In float64, of a float64 copy of ``pred``."""
    leaf = pred.detach().double().requires_grad_()
    loss_of(leaf, **options).sum().backward()
    return leaf.grad
