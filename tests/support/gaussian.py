"""The problem with a known answer (math.md section 5): for Gaussian data the exact network has a closed form."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rcgm.objectives.times import Times
from rcgm.transports import Linear, Transport
from tests.support.rounding import rounding_bound


def _column(values: Tensor) -> Tensor:
    return values[:, None]


@dataclass
class Gaussian:
    """Data ``N(mean, std^2)``, each coordinate with its own mean and deviation; states ``[B, C]``, times ``[B]``.

    Called as a network ``(x, t, r, cond)`` it gives the exact prediction: the F of ``x_r = A(t, r) x_t + B(t, r) F``.
    """

    mean: Tensor
    std: Tensor
    transport: Transport = field(default_factory=Linear)

    def deviation(self, t: Tensor) -> Tensor:
        """Standard deviation of ``x_t``, ``[B, C]``."""
        data, noise = _column(self.transport.gamma(t)), _column(self.transport.alpha(t))
        return ((data * self.std) ** 2 + noise**2).sqrt()

    def flow(self, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """Where the probability flow takes ``x`` at time ``t`` to, at time ``r``."""
        centred = x - _column(self.transport.gamma(t)) * self.mean
        return _column(self.transport.gamma(r)) * self.mean + self.deviation(r) / self.deviation(t) * centred

    def pair(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The conditional means of data and noise given ``x_t``: they rebuild it and have its velocity."""
        alpha, gamma = _column(self.transport.alpha(t)), _column(self.transport.gamma(t))
        centred = (x_t - gamma * self.mean) / self.deviation(t) ** 2
        return self.mean + gamma * self.std**2 * centred, alpha * centred

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """The velocity of the probability flow."""
        data, noise = self.pair(x, t)
        return _column(self.transport.alpha_derivative(t)) * noise + _column(self.transport.gamma_derivative(t)) * data

    def instantaneous(self, x: Tensor, t: Tensor) -> Tensor:
        """The prediction at ``r = t``."""
        data, noise = self.pair(x, t)
        return _column(self.transport.alpha_hat(t)) * noise + _column(self.transport.gamma_hat(t)) * data

    def __call__(self, x: Tensor, t: Tensor, r: Tensor, cond: object = None) -> Tensor:
        carried, moved = (_column(value) for value in self.transport.step(t, r))
        apart = _column(t - r) > 1e-12
        stepped = (self.flow(x, t, r) - carried * x) / torch.where(apart, moved, 1)
        return torch.where(apart, stepped, self.instantaneous(x, t))


def problem(transport: Transport | None = None) -> Gaussian:
    """Three coordinates of different means and widths, in float64."""
    return Gaussian(
        torch.tensor([0.7, -1.2, 0.0], dtype=torch.float64),
        torch.tensor([0.5, 0.3, 1.4], dtype=torch.float64),
        Linear() if transport is None else transport,
    )


def states(gaussian: Gaussian, times: Times, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """States ``x_t`` of the flow at ``times.t`` (float64), and the data and the noise that rebuild them."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(len(times.t), len(gaussian.mean), generator=generator, dtype=torch.float64)
    centre = _column(gaussian.transport.gamma(times.t)) * gaussian.mean
    x_t = centre + gaussian.deviation(times.t) * normal
    return x_t, *gaussian.pair(x_t, times.t)


def vanishing(times: Times) -> float:
    """What rounding may leave of a residual of the exact network, which divides by the length of its interval."""
    apart = (times.t - times.r)[times.equal :]
    return rounding_bound(size=10, divided_by=apart.min().item())
