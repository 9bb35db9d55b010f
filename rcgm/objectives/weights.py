"""Weights of the samples as functions of their times, each a subclass and a line in ``SAMPLE_WEIGHTS``."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rcgm.checks import one_of, whole_number

WARPS = ("tangent", "odds", "identity")
LARGEST = 100.0


class SampleWeight(ABC):
    """``w(t, r)``, the factor of a sample's loss; finite for all ``0 <= r <= t <= 1``."""

    @abstractmethod
    def __call__(self, t: Tensor, r: Tensor) -> Tensor:
        """The weights ``[B]`` of the intervals ``[r, t]``; times ``[B]``."""


Weighting = SampleWeight | Callable[[Tensor, Tensor], Tensor]
"""What a sample is weighted by: one of the classes below, or any function of ``t`` and ``r`` ``[B]`` to ``[B]``."""


@dataclass(frozen=True)
class CosineWeight(SampleWeight):
    """``cos(pi t/2)`` (UCGM): 1 at the data, 0 at the noise."""

    def __call__(self, t: Tensor, r: Tensor) -> Tensor:
        return torch.cos(math.pi / 2 * t).clamp(min=0)


@dataclass(frozen=True)
class IntervalWeight(SampleWeight):
    """``(sigma_data + tau(t) - tau(r))^(-power)``, which favours short intervals (TiM, equations 11 and 12).

    Times are in [0, 1] under every transport. The weight is ``sigma_data^(-power)`` at ``t = r``, and 0 where
    ``tau(t)`` is infinite.

    Args:
        sigma_data: standard deviation of the data, ``> 0``.
        warp: tau: ``"tangent"``, ``tan(t)``, the paper's; ``"odds"``, ``t/(1 - t)``; ``"identity"``.
        power: ``>= 0``; 1/2 in the paper. 0 gives every interval the same weight.

    Raises:
        ValueError: for a value out of range.
    """

    sigma_data: float = 1.0
    warp: str = "tangent"
    power: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.sigma_data < float("inf"):
            raise ValueError(f"sigma_data must be a finite number > 0, got {self.sigma_data!r}")
        one_of("warp", self.warp, WARPS)
        if not 0 <= self.power < float("inf"):
            raise ValueError(f"power must be a finite number >= 0, got {self.power!r}")

    def __call__(self, t: Tensor, r: Tensor) -> Tensor:
        if self.warp == "odds":
            # over a common denominator, which is 0 only at t = 1
            room = (1 - t) * (1 - r)
            return torch.where(t > r, room / (self.sigma_data * room + t - r), 1 / self.sigma_data) ** self.power
        length = t - r if self.warp == "identity" else torch.tan(t) - torch.tan(r)
        return (self.sigma_data + length) ** -self.power


@dataclass(frozen=True)
class TangentWeight(SampleWeight):
    """``tan((1 - (t - r)) pi/2.5) + 1`` (TwinFlow): 1 for the whole interval, 4.1 at ``t = r``."""

    def __call__(self, t: Tensor, r: Tensor) -> Tensor:
        return torch.tan((1 - (t - r)) * (math.pi / 2.5)) + 1


@dataclass(frozen=True)
class InverseTangentWeight(SampleWeight):
    """``1/tan(pi t/2)``, at most 100 (sCM's prior weight): more for times near the data."""

    def __call__(self, t: Tensor, r: Tensor) -> Tensor:
        return (1 / torch.tan(math.pi / 2 * t)).clamp(0, LARGEST)


@dataclass(frozen=True)
class _OfTrainingTimes(SampleWeight):
    """A function of ``t`` whose mean over the discrete times of a schedule is 1, as in FastGen's program.

    Args:
        steps: number of times ``1/steps, 2/steps, ..., 1``, at least 2.
        shift: the times become ``shift t/(1 + (shift - 1) t)``.

    Raises:
        TypeError: for a number of steps that is not whole.
        ValueError: for a value out of range.
    """

    steps: int = 1000
    shift: float = 1.0

    def __post_init__(self) -> None:
        whole_number("steps", self.steps, 2)
        if not 0 < self.shift < math.inf:
            raise ValueError(f"shift must be a finite number > 0, got {self.shift!r}")
        _ = self.scale  # computed now: in a training step it would wait for the device

    @cached_property
    def scale(self) -> float:
        """The factor that makes the mean over the times 1."""
        times = torch.arange(1, self.steps + 1, dtype=torch.float64) / self.steps
        times = self.shift * times / (1 + (self.shift - 1) * times)
        return 1 / float(self._shape(times).mean())

    @abstractmethod
    def _shape(self, t: Tensor) -> Tensor: ...

    def __call__(self, t: Tensor, r: Tensor) -> Tensor:
        return self.scale * self._shape(t)


@dataclass(frozen=True)
class RootWeight(_OfTrainingTimes):
    """``t sqrt(1 - t)``, scaled to a mean of 1 (FastGen's ``beta08``): most at ``t = 2/3``."""

    def _shape(self, t: Tensor) -> Tensor:
        return t * (1 - t).clamp(min=0).sqrt()


@dataclass(frozen=True)
class BellWeight(_OfTrainingTimes):
    """``exp(-2 (t - 1/2)^2) - exp(-1/2)``, scaled to a mean of 1 (FastGen's ``gaussian``): 0 at both ends."""

    def _shape(self, t: Tensor) -> Tensor:
        return (torch.exp(-2 * (t - 0.5) ** 2) - math.exp(-0.5)).clamp(min=0)


SAMPLE_WEIGHTS: dict[str, type[SampleWeight]] = {
    "cosine": CosineWeight,
    "interval": IntervalWeight,
    "tangent": TangentWeight,
    "inverse_tangent": InverseTangentWeight,
    "beta08": RootWeight,
    "gaussian": BellWeight,
}
"""Weights of a sample, by their name in a configuration."""
