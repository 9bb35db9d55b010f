"""A small smooth network in float64, and the comparison of an objective with its algorithm in plain tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rcgm.objectives import Objective

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


def assert_same(objective: Objective, loss, student: nn.Module, x: Tensor, cond=None, **arguments) -> None:
    """The objective's loss and gradient are those of ``loss``, a function of the student, to float64 rounding."""
    gradients, values = [], []
    for compute in (lambda: objective(student, x, cond, **arguments).loss, lambda: loss(student)):
        student.zero_grad()
        value = compute()
        value.backward()
        values.append(value.detach())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in student.parameters()
                                    if parameter.grad is not None]))  # fmt: skip
    torch.testing.assert_close(values[0], values[1], rtol=1e-10, atol=1e-12)
    assert gradients[1].abs().max() > 1e-4
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-11)
