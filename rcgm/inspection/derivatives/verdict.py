"""Which objectives can be trained with which derivative: the errors beside the noise that their targets have anyway.

The target of an objective that is trained from data contains the velocity of one pair of data and noise, which differs
from its mean at ``x_t`` by a random amount ``n``. Rounding is random too. It adds its square to that of ``n`` in the
variance of the gradient, as if the batch were smaller by as much. ``NOISE_LIMIT`` allows a tenth of the variance. The
error of a step (truncation) has the same sign in every batch, and does not average out: the network learns another
derivative. ``BIAS_LIMIT`` allows a tenth of the derivative. Both hold in every range of ``t``.

Errors are in units of the prediction. There an objective multiplies the derivative by ``B/B'``, the step to ``r`` over
its speed: ``t - r`` under the linear transport.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rcgm.inspection.derivatives.errors import DerivativeError, DifferenceError
from rcgm.inspection.derivatives.points import Points, rms

__all__ = ["BIAS_LIMIT", "GROUPS", "NOISE_LIMIT", "Allowance", "Yardstick", "judge_derivative", "judge_difference"]

NOISE_LIMIT = math.sqrt(0.1)
"""Of rounding, as a part of the noise of the target: it adds a tenth to the variance."""
BIAS_LIMIT = 0.1
"""Of truncation, as a part of the derivative."""
LARGEST_RATIO = 1e3
"""Of ``B/B'``, as in TiM."""

GROUPS = {"any": ("mean_flow", "improved_mean_flow", "tim"), "to_data": ("scm", "decm", "facm", "ucgm, ratio 1")}
"""Objectives that need ``dF/dt``: for intervals to any ``r``, and for those to ``r = 0``."""


@dataclass(frozen=True)
class Yardstick:
    """What errors are compared with.

    Args:
        noise: root mean square of ``T - F(x_t, t, t)``, the target of flow matching less its prediction, by range,
            ``[ranges]``: for a trained network the noise of the target, for others more.
        derivative: root mean square over the elements of ``dF/dt``, ``[B]``.
        factor: what the derivative is multiplied by, ``|B/B'|``, ``[B]``.
        points: the points in float64.
    """

    noise: Tensor
    derivative: Tensor
    factor: Tensor
    points: Points

    @classmethod
    def of(cls, points: Points, truth: Tensor, instantaneous: Tensor) -> Yardstick:
        """From the points in float64, the true derivative there, and the exact prediction at ``(x_t, t, t)``."""
        point, transport = points.point, points.transport
        step, speed = transport.step(point.t, point.r)[1], transport.step_derivative(point.t, point.r)
        factor = torch.where(speed == 0, 0, step / torch.where(speed == 0, 1, speed)).abs().clamp(max=LARGEST_RATIO)
        noise = rms(point.regression_target - instantaneous)
        return cls(by_range(noise, points), rms(truth), factor.nan_to_num(), points)


@dataclass(frozen=True)
class Allowance:
    """How much of what is allowed is used, in every range of ``t``.

    Args:
        rounding: as a part of the noise of the target.
        truncation: as a part of the derivative; empty where a step is part of the objective.
    """

    rounding: tuple[float, ...]
    truncation: tuple[float, ...] = ()

    @property
    def used(self) -> float:
        """The largest part of a limit that is used: at most 1 where it is safe."""
        return max(max(self.rounding) / NOISE_LIMIT, max(self.truncation, default=0.0) / BIAS_LIMIT)

    @property
    def safe(self) -> bool:
        return self.used <= 1

    @property
    def limited_by(self) -> str:
        """``rounding`` or ``the step``."""
        return "rounding" if self.used == max(self.rounding) / NOISE_LIMIT else "the step"


def judge_derivative(error: DerivativeError, yardstick: Yardstick, group: str) -> Allowance:
    """What the error of an estimator means for a key of ``GROUPS``."""
    points = yardstick.points
    members = points.to_data if group == "to_data" else torch.ones_like(points.to_data)
    rounding, truncation, size = (
        by_range(yardstick.factor * values, points, members)
        for values in (error.rounding, error.truncation, yardstick.derivative)
    )
    return Allowance(_parts(rounding, yardstick.noise), _parts(truncation, size))


def judge_difference(error: DifferenceError, yardstick: Yardstick) -> Allowance:
    """What the rounding of an objective of differences means."""
    return Allowance(_parts(by_range(error.rounding, yardstick.points, error.members), yardstick.noise))


def by_range(values: Tensor, points: Points, members: Tensor | None = None) -> Tensor:
    """Root mean square of ``values`` ``[B]`` over the samples of each range, ``[ranges]``."""
    chosen = torch.ones_like(points.to_data) if members is None else members
    of = points.range_of
    return torch.stack([values[chosen & (of == index)].square().mean().sqrt() for index in range(points.ranges)])


def _parts(values: Tensor, whole: Tensor) -> tuple[float, ...]:
    return tuple(torch.where(values == 0, 0.0, values / whole).tolist())
