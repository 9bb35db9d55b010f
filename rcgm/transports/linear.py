"""The straight path: flow matching's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rcgm.transports.base import Transport
from rcgm_kernels import advance, interpolate


@dataclass(frozen=True)
class Linear(Transport):
    """``x_t = t z + (1 - t) x``; the network predicts the average velocity (RCGM section 3.3; SiT; MeanFlow)."""

    def alpha(self, t: Tensor) -> Tensor:
        return t

    def gamma(self, t: Tensor) -> Tensor:
        return 1 - t

    def alpha_hat(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def gamma_hat(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def alpha_derivative(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def gamma_derivative(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def alpha_hat_derivative(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def gamma_hat_derivative(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def determinant(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def step(self, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), r - t

    def step_derivative(self, t: Tensor, r: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def velocity_coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)

    def path(self, x: Tensor, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        alpha, gamma = torch.stack([t, torch.ones_like(t)]), torch.stack([1 - t, -torch.ones_like(t)])
        point, velocity = interpolate(x, z, alpha, gamma).unbind(0)
        return point, velocity, velocity

    def move(self, x_t: Tensor, prediction: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return advance(x_t, prediction, t, r)

    def velocity(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        return prediction
