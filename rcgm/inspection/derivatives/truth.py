"""The true derivative along the path, in float64: by forward-mode AD, or by extrapolation where that does not run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rcgm.derivatives import ForwardMode
from rcgm.engine.combination import per_sample
from rcgm.inspection.derivatives.points import Points

__all__ = ["Truth", "extrapolated", "true_derivative"]

FORWARD_MODE = "forward-mode AD in float64"
EXTRAPOLATION = "Richardson extrapolation of central differences in float64"

LEVELS = 15
FALL = 1.7
"""Ratio of neighbouring steps of the extrapolation. Not whole: steps that are multiples of one another take an
oscillation that is faster than all of them for a slow one."""
LARGEST = 0.05
AGREEMENT = 0.1
"""Operators without a forward-mode rule give derivatives of 0 and no error: where the two ways differ by more than
this part of the derivative, and by more than the extrapolation's own error, forward mode is not believed."""


@dataclass(frozen=True)
class Truth:
    """The derivative at each point.

    Args:
        derivative: float64 ``[B, ...]``.
        method: ``FORWARD_MODE`` or ``EXTRAPOLATION``.
        uncertainty: ``[B]``, estimated error relative to the derivative; 0 for forward mode.
        reason: why forward mode was not taken; empty where it was.
    """

    derivative: Tensor
    method: str
    uncertainty: Tensor
    reason: str = ""


def true_derivative(network: nn.Module, points: Points) -> Truth:
    """The total derivative ``dF/dt`` of ``network``, whose weights are float64, at ``points`` in float64.

    Both ways are gone where forward mode runs, since a wrong rule for it gives no error.
    """
    room = torch.minimum(points.point.t - points.point.r, 1 - points.point.t)
    other, error = extrapolated(lambda offset: points.values(network, offset, torch.float32), room)
    try:
        derivative = points.derivative(network, ForwardMode(), torch.float32)
    except (ValueError, RuntimeError) as problem:
        return Truth(other, EXTRAPOLATION, _relative(error, other), _first_line(problem))
    size = torch.maximum(_norm(derivative), _norm(other))
    apart = _norm(derivative - other) > AGREEMENT * size + error
    if apart.any():
        reason = f"forward-mode AD and differences do not agree in {int(apart.sum())} of {len(apart)} samples"
        return Truth(other, EXTRAPOLATION, _relative(error, other), reason)
    return Truth(derivative, FORWARD_MODE, torch.zeros_like(error))


def extrapolated(values: Callable[[Tensor], Tensor], room: Tensor) -> tuple[Tensor, Tensor]:
    """The derivative of ``values`` at offset 0, and the estimate of its error, of each sample.

    Central differences of falling steps are extrapolated to the step 0 (Richardson). Of all the entries of that table
    each sample takes the one of the least estimated error (Ridders 1982): too large steps have large differences
    between neighbouring entries, and too small ones too, by rounding.

    Args:
        values: from offsets ``[B]`` to float64 ``[B, ...]``.
        room: how far the offsets may go, ``[B]``.

    Returns:
        ``[B, ...]``, and the norm of the error ``[B]``.
    """
    step = room.clamp(max=LARGEST)
    row: list[Tensor] = []
    best, least = None, torch.full_like(room, torch.inf)
    for _ in range(LEVELS):
        after, before = values(step), values(-step)
        above, row = row, [(after - before) / (2 * per_sample(step, after))]
        if best is None:
            best = row[0]
        factor = 1.0
        for level, known in enumerate(above):
            factor *= FALL**2
            row.append((factor * row[level] - known) / (factor - 1))
            error = torch.maximum(_norm(row[-1] - row[-2]), _norm(row[-1] - known))
            better = error < least
            best = torch.where(per_sample(better, best), row[-1], best)
            least = torch.where(better, error, least)
        step = step / FALL
    return best, least


def _relative(error: Tensor, derivative: Tensor) -> Tensor:
    return error / _norm(derivative).clamp(min=torch.finfo(torch.float64).tiny)


def _norm(values: Tensor) -> Tensor:
    return values.flatten(1).norm(dim=1)


def _first_line(problem: Exception) -> str:
    return str(problem).partition("\n")[0]
