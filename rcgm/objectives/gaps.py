"""The first gap as a share ``alpha`` of the interval, and its schedule over training (alpha-Flow)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rcgm.checks import positive_float, whole_number

SMALLEST_GAP = 1e-6
"""Below it ``t - dt`` may round to ``t`` in float32."""


@dataclass(frozen=True)
class AlphaSchedule:
    """``alpha`` by training step: 1 until ``begin``, then down a sigmoid, and ``floor`` after ``end``.

    Between them ``alpha = 1 - sigmoid(sharpness (done - 1/2))``, ``done = (step - begin)/(end - begin)``; 1 where that
    exceeds ``1 - floor``, and ``floor`` where it is below. The defaults are those of the authors' B/2 for 400,000
    steps. ``end`` is the length of the run, or less.

    Args:
        begin, end: training steps, ``0 <= begin < end``.
        sharpness: of the sigmoid, the paper's gamma, ``> 0``.
        floor: the last ``alpha``, the paper's eta, above 0 and at most 1/2.

    Raises:
        TypeError, ValueError: for a value out of range.
    """

    begin: int = 0
    end: int = 400_000
    sharpness: float = 25.0
    floor: float = 0.005

    def __post_init__(self) -> None:
        whole_number("alpha begin", self.begin, 0)
        if whole_number("alpha end", self.end) <= self.begin:
            raise ValueError(f"alpha end must be after begin, {self.begin}, got {self.end!r}")
        positive_float("alpha sharpness", self.sharpness)
        if not 0 < self.floor <= 0.5:
            raise ValueError(f"alpha floor must be above 0 and at most 0.5, got {self.floor!r}")

    def __call__(self, step: int) -> float:
        """``alpha`` at training step number ``step``."""
        if step < self.begin:
            return 1.0
        if step > self.end:
            return self.floor
        done = (step - self.begin) / (self.end - self.begin)
        alpha = 1 / (1 + math.exp(self.sharpness * (done - 0.5)))
        return 1.0 if alpha > 1 - self.floor else max(alpha, self.floor)


Alpha = AlphaSchedule | float


def check_alpha(alpha: Alpha) -> None:
    """Raises ``TypeError`` or ``ValueError`` unless ``alpha`` is a schedule or a number above 0 and at most 1."""
    if not isinstance(alpha, AlphaSchedule) and positive_float("alpha", alpha) > 1:
        raise ValueError(f"alpha must be at most 1, which is the whole interval, got {alpha!r}")


def alpha_at(alpha: Alpha, step: int) -> float:
    """The share at training step number ``step``."""
    return alpha(step) if isinstance(alpha, AlphaSchedule) else alpha


def relative_gap(alpha: float, t: Tensor, r: Tensor) -> Tensor:
    """``dt = alpha (t - r)``, ``[B]``, at least as long as times can tell apart and at most the interval."""
    return torch.minimum((alpha * (t - r)).clamp(min=SMALLEST_GAP), t - r)
