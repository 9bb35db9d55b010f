"""The loss of TiM's training program, written down as those of `published_loops`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.support.published_loops import DIFFERENCE, Loss, Problem, column, direction, mean


@dataclass(frozen=True)
class TimTransport:
    """A row of the paper's table: the path, what is regressed, ``B`` of the step, and derivatives, all of our time."""

    path: Callable[[Tensor], tuple[Tensor, Tensor]]
    regressed: Callable[[Tensor], tuple[Tensor, Tensor]]
    regressed_derivative: Callable[[Tensor], tuple[Tensor, Tensor]]
    step: Callable[[Tensor, Tensor], Tensor]
    step_derivative: Callable[[Tensor, Tensor], Tensor]


def _angle(t: Tensor) -> Tensor:
    return math.pi / 2 * t


def _beta(t: Tensor) -> Tensor:
    return torch.expm1(19.9 / 2 * t**2 + 0.1 * t).sqrt()


def _constant(first: float, second: float) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    return lambda t: (torch.full_like(t, first), torch.full_like(t, second))


TIM_TRANSPORTS = {  # data, noise
    "linear": TimTransport(
        lambda t: (1 - t, t), _constant(-1, 1), _constant(0, 0), lambda t, r: r - t, lambda t, r: -torch.ones_like(t)
    ),
    "trigflow": TimTransport(
        lambda t: (torch.cos(_angle(t)), torch.sin(_angle(t))),
        lambda t: (-torch.sin(_angle(t)), torch.cos(_angle(t))),
        lambda t: (-math.pi / 2 * torch.cos(_angle(t)), -math.pi / 2 * torch.sin(_angle(t))),
        lambda t, r: torch.sin(_angle(r) - _angle(t)),
        lambda t, r: -math.pi / 2 * torch.cos(_angle(r) - _angle(t)),
    ),
    "triglinear": TimTransport(
        lambda t: (torch.cos(_angle(t)), torch.sin(_angle(t))),
        _constant(-1, 1),
        _constant(0, 0),
        lambda t, r: torch.sin(_angle(r) - _angle(t)) / (torch.sin(_angle(t)) + torch.cos(_angle(t))),
        lambda t, r: -math.pi * math.sqrt(2) * torch.sin(_angle(r) + math.pi / 4) / (2 * torch.sin(math.pi * t) + 2),
    ),
    "vp": TimTransport(
        lambda t: (1 / (_beta(t) ** 2 + 1).sqrt(), _beta(t) / (_beta(t) ** 2 + 1).sqrt()),
        _constant(0, 1),
        _constant(0, 0),
        lambda t, r: (_beta(r) - _beta(t)) / (_beta(r) ** 2 + 1).sqrt(),
        lambda t, r: -(19.9 * t + 0.1) * (_beta(t) ** 2 + 1) / (2 * _beta(t)) / (_beta(r) ** 2 + 1).sqrt(),
    ),
}


def tim(transport: str = "linear", *, guided: bool = False) -> Loss:
    """Mean over the elements of ``(F - F_hat)^2`` and the direction, weighted by the interval and by its own size.

    With guidance the estimates are the average's, that with the label for all samples by the label they had.
    """
    row = TIM_TRANSPORTS[transport]

    def loss(p: Problem) -> Tensor:
        t, r = p.t, p.r

        def state(time: Tensor) -> Tensor:
            data, noise = row.path(time)
            return column(data) * p.x + column(noise) * p.z

        x_t = state(t)
        prediction = p.student(x_t, t, r, p.kept)
        with torch.no_grad():
            data_hat, noise_hat = (column(value) for value in row.regressed(t))
            supervision = data_hat * p.x + noise_hat * p.z
            if guided:
                with_label, without = p.target(x_t, t, t, p.labels), p.target(x_t, t, t, p.nulls)
                inside = column((t >= 0.3) & (t <= 0.8))
                supervision = torch.where(inside, supervision + 0.75 * (with_label - without), supervision)
            data, noise = (column(value) for value in row.path(t))
            determinant = noise_hat * data - data_hat * noise
            clean = (noise_hat * x_t - noise * supervision) / determinant
            dirt = (data * supervision - data_hat * x_t) / determinant
            ahead, behind = (p.student(state(t + e), t + e, r, p.kept) for e in (DIFFERENCE, -DIFFERENCE))
            derivative = (ahead - behind) / (2 * DIFFERENCE)
            data_derivative, noise_derivative = (column(value) for value in row.regressed_derivative(t))
            ratio = column(torch.where(t > r, row.step(t, r) / row.step_derivative(t, r), 0))
            target = supervision + ratio * (data_derivative * clean + noise_derivative * dirt - derivative)
        losses = mean((prediction - target) ** 2) + direction(prediction, target)
        weight = torch.where(t > r, (1 + torch.tan(t) - torch.tan(r)).rsqrt(), 1)
        return (weight * losses / (losses.detach() + 1e-5)).mean()

    return loss
