"""Transports: four functions of time (math.md sections 1 and 4; the names are UCGM's)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from rcgm_kernels import interpolate


class Transport(ABC):
    """The path ``x_t = alpha(t) z + gamma(t) x`` from data (``t = 0``) to noise (``t = 1``), and what networks predict.

    The regression target at ``(x_t, t, t)`` is ``alpha_hat(t) z + gamma_hat(t) x``. A prediction ``F`` at ``(x_t, t,
    r)`` stands for the pair

        x_hat = (alpha F - alpha_hat x_t) / D,   z_hat = (gamma_hat x_t - gamma F) / D,
        D = alpha gamma_hat - alpha_hat gamma

    and so for the step ``x_r = gamma(r) x_hat + alpha(r) z_hat = A(t, r) x_t + B(t, r) F``, exact for the network that
    every objective trains towards (TiM, equations 4 to 6). Under the linear transport ``F`` is the average velocity and
    the step is ``x_t - (t - r) F``.

    A new transport gives the four functions, elementwise in ``t`` and differentiable; their derivatives come from
    autograd unless it overrides them. All coefficients have the shape, dtype and device of ``t``.
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Coefficient of the noise in ``x_t``."""

    @abstractmethod
    def gamma(self, t: Tensor) -> Tensor:
        """Coefficient of the data in ``x_t``."""

    @abstractmethod
    def alpha_hat(self, t: Tensor) -> Tensor:
        """Coefficient of the noise in the regression target."""

    @abstractmethod
    def gamma_hat(self, t: Tensor) -> Tensor:
        """Coefficient of the data in the regression target."""

    def alpha_derivative(self, t: Tensor) -> Tensor:
        """Derivative of ``alpha``."""
        return derivative_of(self.alpha, t)

    def gamma_derivative(self, t: Tensor) -> Tensor:
        """Derivative of ``gamma``."""
        return derivative_of(self.gamma, t)

    def alpha_hat_derivative(self, t: Tensor) -> Tensor:
        """Derivative of ``alpha_hat``."""
        return derivative_of(self.alpha_hat, t)

    def gamma_hat_derivative(self, t: Tensor) -> Tensor:
        """Derivative of ``gamma_hat``."""
        return derivative_of(self.gamma_hat, t)

    def determinant(self, t: Tensor) -> Tensor:
        """``alpha gamma_hat - alpha_hat gamma``: not 0 on [0, 1], since the step divides by it."""
        return self.alpha(t) * self.gamma_hat(t) - self.alpha_hat(t) * self.gamma(t)

    def step(self, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """``A(t, r)`` and ``B(t, r)`` of ``x_r = A x_t + B F``; ``B(t, t) = 0`` exactly."""
        dtype = t.dtype
        t, r = t.double(), r.double()  # B is a difference, of which float32 would leave nothing where r is close to t
        alpha, gamma, alpha_r, gamma_r = self.alpha(t), self.gamma(t), self.alpha(r), self.gamma(r)
        inverse = 1 / self.determinant(t)
        carried = (alpha_r * self.gamma_hat(t) - gamma_r * self.alpha_hat(t)) * inverse
        moved = (gamma_r * alpha - alpha_r * gamma) * inverse
        return carried.to(dtype), moved.to(dtype)

    def step_derivative(self, t: Tensor, r: Tensor) -> Tensor:
        """``dB/dt`` of :meth:`step`, ``r`` fixed."""
        return derivative_of(lambda time: self.step(time, r.clone())[1], t)  # a clone for the reason given there

    def velocity_coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``P`` and ``Q`` of ``dx_t/dt = P x_t + Q F(x_t, t, t)``: the instantaneous velocity from the prediction."""
        inverse = 1 / self.determinant(t)
        alpha_derivative, gamma_derivative = self.alpha_derivative(t), self.gamma_derivative(t)
        carried = (alpha_derivative * self.gamma_hat(t) - gamma_derivative * self.alpha_hat(t)) * inverse
        return carried, (gamma_derivative * self.alpha(t) - alpha_derivative * self.gamma(t)) * inverse

    def path(self, x: Tensor, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``x_t``, its velocity along the path, and the regression target, in one pass over ``x`` and ``z``.

        Each is ``[B, ...]``, of the dtype of ``x``; times ``[B]``.
        """
        alpha = torch.stack([self.alpha(t), self.alpha_derivative(t), self.alpha_hat(t)])
        gamma = torch.stack([self.gamma(t), self.gamma_derivative(t), self.gamma_hat(t)])
        point, velocity, target = interpolate(x, z, alpha, gamma).unbind(0)
        return point, velocity, target

    def points(self, x: Tensor, z: Tensor, times: Tensor) -> Tensor:
        """The points of the path at times ``[P, B]``: ``[P, B, ...]``."""
        return interpolate(x, z, self.alpha(times), self.gamma(times))

    def move(self, x_t: Tensor, prediction: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """The step ``x_r = A(t, r) x_t + B(t, r) F``, in one pass; ``[B, ...]``, times ``[B]``. No gradient."""
        carried, moved = self.step(t, r)
        return interpolate(x_t.detach(), prediction.detach(), moved[None], carried[None])[0]

    def velocity(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """The instantaneous velocity that ``prediction`` at ``(x_t, t, t)`` stands for; ``[B, ...]``. No gradient."""
        carried, moved = self.velocity_coefficients(t)
        return interpolate(x_t.detach(), prediction.detach(), moved[None], carried[None])[0]


def derivative_of(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Derivative of an elementwise function at ``t``, by autograd, whatever the caller's gradient mode."""
    with torch.inference_mode(False), torch.enable_grad():
        time = t.detach().clone().requires_grad_()  # a clone, because a tensor made in inference mode takes no gradient
        value = function(time)
        if not value.requires_grad:  # a constant
            return torch.zeros_like(t)
        (derivative,) = torch.autograd.grad(value.sum(), time)
    return derivative
