"""EDM: data under growing noise, scaled to unit variance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rcgm.transports.base import Transport

GROWTH = 4 * 2.68  # of the logarithm of sigma over [0, 1]
START = -4 * 1.59


@dataclass(frozen=True)
class EDM(Transport):
    """``x_t = (sigma z + x)/sqrt(sigma^2 + s^2)``; the network predicts ``(sigma x/s - s z)/sqrt(sigma^2 + s^2)``.

    ``s`` is the standard deviation of the data and ``sigma(t) = exp(4 (2.68 t - 1.59))``, from 0.002 to 78 (UCGM
    appendix; TiM table 1, whose time is sigma itself). The state at ``t = 0`` is the data divided by ``s``, with 0.2%
    of noise.

    Args:
        sigma_data: s.

    Raises:
        ValueError: unless ``sigma_data`` is a finite number > 0.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.sigma_data < math.inf:
            raise ValueError(f"sigma_data must be a finite number > 0, got {self.sigma_data!r}")

    def _sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """sigma and ``1/sqrt(sigma^2 + s^2)``."""
        sigma = torch.exp(GROWTH * t + START)
        return sigma, torch.rsqrt(sigma.square() + self.sigma_data**2)

    def alpha(self, t: Tensor) -> Tensor:
        sigma, scale = self._sigma(t)
        return sigma * scale

    def gamma(self, t: Tensor) -> Tensor:
        return self._sigma(t)[1]

    def alpha_hat(self, t: Tensor) -> Tensor:
        return -self.sigma_data * self._sigma(t)[1]

    def gamma_hat(self, t: Tensor) -> Tensor:
        sigma, scale = self._sigma(t)
        return sigma * scale / self.sigma_data

    def alpha_derivative(self, t: Tensor) -> Tensor:
        sigma, scale = self._sigma(t)
        return GROWTH * sigma * self.sigma_data**2 * scale**3

    def gamma_derivative(self, t: Tensor) -> Tensor:
        sigma, scale = self._sigma(t)
        return -GROWTH * sigma**2 * scale**3

    def alpha_hat_derivative(self, t: Tensor) -> Tensor:
        sigma, scale = self._sigma(t)
        return self.sigma_data * GROWTH * sigma**2 * scale**3

    def gamma_hat_derivative(self, t: Tensor) -> Tensor:
        sigma, scale = self._sigma(t)
        return self.sigma_data * GROWTH * sigma * scale**3

    def determinant(self, t: Tensor) -> Tensor:
        return torch.full_like(t, 1 / self.sigma_data)

    def step(self, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        (sigma, scale), (sigma_r, scale_r) = self._sigma(t), self._sigma(r)
        both = scale * scale_r
        apart = -torch.expm1(-GROWTH * (t - r)) * sigma  # sigma - sigma_r, without cancellation
        return both * (sigma * sigma_r + self.sigma_data**2), self.sigma_data * both * apart

    def step_derivative(self, t: Tensor, r: Tensor) -> Tensor:
        (sigma, scale), (sigma_r, scale_r) = self._sigma(t), self._sigma(r)
        return self.sigma_data * GROWTH * sigma * scale_r * scale**3 * (self.sigma_data**2 + sigma * sigma_r)

    def velocity_coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        sigma, scale = self._sigma(t)
        return torch.zeros_like(t), -self.sigma_data * GROWTH * sigma * scale.square()
