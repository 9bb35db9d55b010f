"""The quarter circle with the linear transport's prediction: TiM's own transport, UCGM's TrigLinear."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rcgm.transports.base import Transport

QUARTER = math.pi / 2


@dataclass(frozen=True)
class TrigLinear(Transport):
    """``x_t = sin(pi t/2) z + cos(pi t/2) x``; the network predicts ``z - x`` (TiM table 1, last row; UCGM).

    ``dB/dt`` here is that of ``B``; the one that the table prints lacks a factor of pi.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(QUARTER * t)

    def gamma(self, t: Tensor) -> Tensor:
        return torch.cos(QUARTER * t)

    def alpha_hat(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def gamma_hat(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def alpha_derivative(self, t: Tensor) -> Tensor:
        return QUARTER * torch.cos(QUARTER * t)

    def gamma_derivative(self, t: Tensor) -> Tensor:
        return -QUARTER * torch.sin(QUARTER * t)

    def alpha_hat_derivative(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def gamma_hat_derivative(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def step(self, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        inverse = 1 / _total(t)
        return _total(r) * inverse, -torch.sin(QUARTER * (t - r)) * inverse

    def step_derivative(self, t: Tensor, r: Tensor) -> Tensor:
        return -QUARTER * _total(r) / _total(t).square()

    def velocity_coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        inverse = QUARTER / _total(t)
        return (self.gamma(t) - self.alpha(t)) * inverse, inverse


def _total(t: Tensor) -> Tensor:
    """``sin + cos``, from 1 to sqrt(2)."""
    return torch.sin(QUARTER * t) + torch.cos(QUARTER * t)
