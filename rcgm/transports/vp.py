"""VP: the variance-preserving path of DDPM in continuous time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rcgm.transports.base import Transport

LARGEST_EXPONENT = 80


@dataclass(frozen=True)
class VP(Transport):
    """``x_t = sqrt(1 - e^-g) z + e^(-g/2) x`` with ``g = beta_d t^2/2 + beta_min t``; the network predicts ``z``.

    This is TiM table 1 with ``beta_t = sqrt(e^g - 1)``. Its ``B`` is ``gamma(r) (beta_r - beta_t)`` by the paper's own
    equation 5; the table prints ``gamma(t)`` there. The noise grows like ``sqrt(t)``: at ``t = 0`` the derivatives of
    ``alpha`` and ``B``, and the velocity, are infinite.

    Args:
        beta_d, beta_min: of ``g``.

    Raises:
        ValueError: unless both are finite and > 0, and ``g(1) <= 80``, so that ``e^g`` is a float32 number.
    """

    beta_d: float = 19.9
    beta_min: float = 0.1

    def __post_init__(self) -> None:
        for name in ("beta_d", "beta_min"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be a finite number > 0, got {value!r}")
        if self.beta_d / 2 + self.beta_min > LARGEST_EXPONENT:
            got = f"{self.beta_d!r} and {self.beta_min!r}"
            raise ValueError(f"beta_d/2 + beta_min must be at most {LARGEST_EXPONENT}, got beta_d, beta_min {got}")

    def _exponent(self, t: Tensor) -> Tensor:
        return t * (self.beta_d / 2 * t + self.beta_min)

    def _exponent_derivative(self, t: Tensor) -> Tensor:
        return self.beta_d * t + self.beta_min

    def _beta(self, t: Tensor) -> Tensor:
        return torch.expm1(self._exponent(t)).sqrt()

    def alpha(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self._exponent(t))).sqrt()

    def gamma(self, t: Tensor) -> Tensor:
        return torch.exp(-self._exponent(t) / 2)

    def alpha_hat(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def gamma_hat(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def alpha_derivative(self, t: Tensor) -> Tensor:
        return self._exponent_derivative(t) * torch.exp(-self._exponent(t)) / (2 * self.alpha(t))

    def gamma_derivative(self, t: Tensor) -> Tensor:
        return -self._exponent_derivative(t) / 2 * self.gamma(t)

    def alpha_hat_derivative(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def gamma_hat_derivative(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def determinant(self, t: Tensor) -> Tensor:
        return -self.gamma(t)

    def step(self, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        apart = (t - r) * (self.beta_d / 2 * (t + r) + self.beta_min)  # g(t) - g(r), without cancellation
        sum_of_betas = self._beta(t) + self._beta(r)
        moved = torch.exp(self._exponent(r) / 2) * torch.expm1(apart) / torch.where(sum_of_betas > 0, sum_of_betas, 1)
        return torch.exp(apart / 2), -moved

    def step_derivative(self, t: Tensor, r: Tensor) -> Tensor:
        grown = self._exponent_derivative(t) * torch.exp(self._exponent(t)) / (2 * self._beta(t))
        return -self.gamma(r) * grown

    def velocity_coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        half = self._exponent_derivative(t) / 2
        return -half, half / self.alpha(t)
