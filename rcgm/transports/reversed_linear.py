"""The straight path, with the sign of the prediction reversed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rcgm.transports.linear import Linear


@dataclass(frozen=True)
class ReversedLinear(Linear):
    """The linear path for networks that predict ``x - z``, from noise to data (UCGM's reversed linear transport).

    There time runs from noise to data. Here ``t = 0`` is data under every transport, so only the sign of the prediction
    is reversed. ``rcgm.models.ReversedTime`` reverses both the time and the sign: a network wrapped in it predicts
    ``z - x`` and takes :class:`Linear`.
    """

    def alpha_hat(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def gamma_hat(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def determinant(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def step(self, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), t - r

    def step_derivative(self, t: Tensor, r: Tensor) -> Tensor:
        return torch.ones_like(t)

    def velocity_coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), -torch.ones_like(t)

    def path(self, x: Tensor, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        point, velocity, _ = super().path(x, z, t)
        return point, velocity, -velocity

    def move(self, x_t: Tensor, prediction: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return super().move(x_t, prediction, r, t)

    def velocity(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        return -prediction
