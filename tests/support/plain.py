"""A small smooth network in float64, and the comparison of an objective with its algorithm in plain tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rcgm.objectives import Objective
from tests.support.residuals import assert_same_loss

BATCH = 8


class Smooth(nn.Module):
    """``(x, t, r, cond)`` to a prediction; ``x`` ``[B, 3]``, ``cond`` int64 ``[B]`` or None."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def matrix(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64) / shape[0] ** 0.5)

        self.inner, self.outer, self.labels = matrix(5, 16), matrix(16, 3), matrix(6, 3)

    def forward(self, x: Tensor, t: Tensor, r: Tensor, cond: Tensor | None = None) -> Tensor:
        hidden = torch.tanh(torch.cat([x, t[:, None], r[:, None]], 1) @ self.inner)
        return hidden @ self.outer + (0 if cond is None else self.labels[cond])


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Data and noise."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, BATCH, 3, generator=generator, dtype=torch.float64).unbind(0)


def assert_same(
    objective: Objective, loss, student: nn.Module, x: Tensor, cond=None, *, divided_by: float = 1.0, **arguments
) -> None:
    """The objective's loss and gradient are those of ``loss``, a function of the student, to float64 rounding.

    ``divided_by`` is the shortest step that a difference is divided by.
    """
    assert_same_loss(objective(student, x, cond, **arguments).loss, loss(student), student, divided_by=divided_by)
