"""Guidance as an input of the network, so that it can be chosen when sampling (improved MeanFlow, section 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rcgm.distributed.shares import Share
from rcgm.engine.combination import Combination, term
from rcgm.engine.conditions import guidance_everywhere
from rcgm.engine.queries import STUDENT, Query
from rcgm.objectives.guidance import Guidance
from rcgm.objectives.point import Point
from rcgm.objectives.times import Times


@dataclass(frozen=True)
class InputGuidance(Guidance):
    """``target + (1 - 1/omega)(F_cond - F_null)`` where ``low <= t <= high``: ``omega, low, high`` are inputs.

    They are drawn for each sample and given to the network in every evaluation, as the ``guidance`` of its condition
    (``guidance_input`` of ``rcgm.models``); the estimate without a condition is told ``(1, 0, 1)``, the one with it
    ``(omega, 0, 1)``. A student that has learned the target estimates ``F_null + omega (F_cond - F_null)``. Sampling
    then takes one evaluation a step at any ``omega``.

    Args:
        scale: the largest omega, ``>= 1``; the smallest is 1.
        t_min, t_max: ``low`` is uniform from ``t_min`` to the middle between them, ``high`` from there to ``t_max``. In
            the leading samples, which have ``r = t``, they are ``t_min`` and ``t_max``.
        network: whose estimates guide.
        power: omega has a density proportional to ``omega^-power``, the paper's beta, ``>= 0``.

    Raises:
        ValueError: for a value out of range.
    """

    scale: float = 8.0
    network: str = STUDENT
    power: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scale >= 1:
            raise ValueError(f"guidance scale must be at least 1 as the largest input, got {self.scale!r}")
        if not 0 <= self.power < math.inf:
            raise ValueError(f"guidance power must be a finite number >= 0, got {self.power!r}")

    def inputs(self, times: Times, share: Share, generator: torch.Generator | None) -> Tensor:
        """``omega, low, high`` of the samples at ``times``, ``[B, 3]``; drawn for the rows of all of ``share``."""
        t = times.t
        drawn = torch.rand(share.total, 3, generator=generator, device=t.device).to(t.dtype)
        u, low, high = share.of(drawn).unbind(1)
        middle = (self.t_min + self.t_max) / 2
        low, high = self.t_min + (middle - self.t_min) * low, middle + (self.t_max - middle) * high
        inside = torch.arange(len(t), device=t.device) >= times.equal
        low, high = torch.where(inside, low, self.t_min), torch.where(inside, high, self.t_max)
        return torch.stack([self._omega(u), low, high], dim=1)

    def _omega(self, u: Tensor) -> Tensor:
        """``omega`` at the uniform numbers ``u``: the inverse of its distribution."""
        if self.power == 1:
            return torch.exp(u * math.log(self.scale))
        return (1 + u * (self.scale ** (1 - self.power) - 1)) ** (1 / (1 - self.power))

    def queries(self, point: Point) -> list[Query]:
        with_null = super().queries(point)[1]
        return [
            Query(point.x_t, point.t, point.t, self.network, guidance=guidance_everywhere(point.guidance[:, 0])),
            with_null,
        ]

    def regression_target(self, point: Point, plain: Combination, answers: list[Tensor]) -> Combination:
        with_cond, with_null = answers
        return plain + (1 - 1 / self.used(point)) * (term(with_cond) - term(with_null))

    def inside(self, point: Point) -> Tensor:
        inside = self._in_interval(point)
        if point.dropped is not None:
            inside &= ~point.dropped
        return inside.to(point.t.dtype)

    def used(self, point: Point) -> Tensor:
        """``omega`` inside the interval, 1 outside it, ``[B]``."""
        return torch.where(self.inside(point) > 0, point.guidance[:, 0], 1)

    def at_the_time(self, point: Point) -> Tensor:
        """What the network is told for its velocity at ``t``: the ``omega`` that is used there, ``[B, 3]``."""
        return guidance_everywhere(torch.where(self._in_interval(point), point.guidance[:, 0], 1))

    def _in_interval(self, point: Point) -> Tensor:
        _, low, high = point.guidance.unbind(1)
        return (point.t >= low) & (point.t <= high)
