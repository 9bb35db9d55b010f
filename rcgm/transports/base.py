"""Transports: how noise and data are mixed along the path (math.md section 1; the names are UCGM's)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from rcgm_kernels import interpolate


class Transport(ABC):
    """``x_t = alpha(t) z + gamma(t) x`` with ``t = 0`` data and ``t = 1`` noise. Coefficients have the shape of t."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Coefficient of the noise."""

    @abstractmethod
    def gamma(self, t: Tensor) -> Tensor:
        """Coefficient of the data."""

    @abstractmethod
    def alpha_slope(self, t: Tensor) -> Tensor:
        """Derivative of ``alpha``."""

    @abstractmethod
    def gamma_slope(self, t: Tensor) -> Tensor:
        """Derivative of ``gamma``."""

    def point_and_velocity(self, x: Tensor, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """``x_t`` and the velocity ``v_t`` of the conditional path, ``[B, ...]``, in one pass over ``x`` and ``z``."""
        alpha = torch.stack([self.alpha(t), self.alpha_slope(t)])
        gamma = torch.stack([self.gamma(t), self.gamma_slope(t)])
        point, velocity = interpolate(x, z, alpha, gamma).unbind(0)
        return point, velocity

    def points(self, x: Tensor, z: Tensor, times: Tensor) -> Tensor:
        """The points of the path at times ``[P, B]``: ``[P, B, ...]``."""
        return interpolate(x, z, self.alpha(times), self.gamma(times))


@dataclass(frozen=True)
class Linear(Transport):
    """``x_t = t z + (1 - t) x``, velocity ``z - x`` (flow matching, RCGM section 3.3)."""

    def alpha(self, t: Tensor) -> Tensor:
        return t

    def gamma(self, t: Tensor) -> Tensor:
        return 1 - t

    def alpha_slope(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def gamma_slope(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)
