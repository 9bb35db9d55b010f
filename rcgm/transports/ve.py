"""VE: unscaled data under growing noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rcgm.transports.base import Transport


@dataclass(frozen=True)
class VE(Transport):
    """``x_t = sigma z + x``; the network predicts ``-z`` (score matching; TiM table 1, whose time is sigma itself).

    ``sigma(t) = sigma_min (sigma_max/sigma_min)^t``. States are as large as sigma, so the network must scale its input.

    Args:
        sigma_min, sigma_max: sigma at ``t = 0`` and ``t = 1``.

    Raises:
        ValueError: unless ``0 < sigma_min < sigma_max`` and both are finite.
    """

    sigma_min: float = 0.02
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            got = f"{self.sigma_min!r} and {self.sigma_max!r}"
            raise ValueError(f"sigma_min and sigma_max must be finite with 0 < sigma_min < sigma_max, got {got}")

    @property
    def _growth(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(self._growth * t)

    def gamma(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def alpha_hat(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def gamma_hat(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def alpha_derivative(self, t: Tensor) -> Tensor:
        return self._growth * self.alpha(t)

    def gamma_derivative(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def alpha_hat_derivative(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def gamma_hat_derivative(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def determinant(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def step(self, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), -torch.expm1(-self._growth * (t - r)) * self.alpha(t)

    def step_derivative(self, t: Tensor, r: Tensor) -> Tensor:
        return self.alpha_derivative(t)

    def velocity_coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), -self.alpha_derivative(t)
