"""TrigFlow: the quarter circle (sCM)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rcgm.transports.base import Transport

QUARTER = math.pi / 2


@dataclass(frozen=True)
class TrigFlow(Transport):
    """``x_t = sin(pi t/2) z + cos(pi t/2) x``; the network predicts ``cos(pi t/2) z - sin(pi t/2) x``.

    Sources: sCM; TiM table 1. The papers' time is the angle, from 0 to pi/2. Data have a standard deviation of about 1.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(QUARTER * t)

    def gamma(self, t: Tensor) -> Tensor:
        return torch.cos(QUARTER * t)

    def alpha_hat(self, t: Tensor) -> Tensor:
        return torch.cos(QUARTER * t)

    def gamma_hat(self, t: Tensor) -> Tensor:
        return -torch.sin(QUARTER * t)

    def alpha_derivative(self, t: Tensor) -> Tensor:
        return QUARTER * torch.cos(QUARTER * t)

    def gamma_derivative(self, t: Tensor) -> Tensor:
        return -QUARTER * torch.sin(QUARTER * t)

    def alpha_hat_derivative(self, t: Tensor) -> Tensor:
        return -QUARTER * torch.sin(QUARTER * t)

    def gamma_hat_derivative(self, t: Tensor) -> Tensor:
        return -QUARTER * torch.cos(QUARTER * t)

    def determinant(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def step(self, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        angle = QUARTER * (t - r)
        return torch.cos(angle), -torch.sin(angle)

    def step_derivative(self, t: Tensor, r: Tensor) -> Tensor:
        return -QUARTER * torch.cos(QUARTER * (t - r))

    def velocity_coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.full_like(t, QUARTER)
