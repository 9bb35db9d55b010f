"""Guidance at training time: a changed order-zero target, so that sampling needs one forward a step (math.md 3).

Each paper's form is a subclass of ``Guidance`` and a line in ``GUIDANCES``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from rcgm.combination import Combination, term
from rcgm.objectives.point import Point
from rcgm.queries import NETWORKS, TARGET, Query


@dataclass(frozen=True)
class Guidance(ABC):
    """Changes the order-zero target where ``t_min <= t <= t_max``. Samples whose condition was dropped keep theirs.

    Args:
        scale: strength of the guidance.
        t_min, t_max: the range of ``t``.
        network: whose estimates guide: ``"target"``, ``"student"`` or ``"teacher"``.

    Raises:
        ValueError: unless ``0 <= t_min <= t_max <= 1``, ``scale`` is finite and >= 0, and the network is known.
    """

    scale: float
    t_min: float = 0.0
    t_max: float = 1.0
    network: str = TARGET

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(f"guidance scale must be a finite number >= 0, got {self.scale!r}")
        if not 0 <= self.t_min <= self.t_max <= 1:
            raise ValueError(f"guidance needs 0 <= t_min <= t_max <= 1, got {self.t_min!r} and {self.t_max!r}")
        if self.network not in NETWORKS:
            raise ValueError(f"guidance network must be one of {', '.join(NETWORKS)}, got {self.network!r}")

    def queries(self, point: Point) -> list[Query]:
        """What guidance needs to know: the instantaneous predictions with the condition and without."""
        return [
            Query(point.x_t, point.t, point.t, self.network),
            Query(point.x_t, point.t, point.t, self.network, null=True),
        ]

    @abstractmethod
    def target(self, point: Point, plain: Combination, answers: list[Tensor]) -> Combination:
        """The guided target from the ``plain`` one and the answers to :meth:`queries`."""

    def inside(self, point: Point) -> Tensor:
        """1 in the samples that are guided, 0 in the others, ``[B]``."""
        inside = (point.t >= self.t_min) & (point.t <= self.t_max)
        if point.dropped is not None:
            inside &= ~point.dropped
        return inside.to(point.t.dtype)


@dataclass(frozen=True)
class EnhancedTarget(Guidance):
    """``target + scale (F_cond - F_null)`` (RCGM section 3.3; UCGM section 3.3 inside its range)."""

    def target(self, point: Point, plain: Combination, answers: list[Tensor]) -> Combination:
        with_cond, with_null = answers
        return plain + self.scale * self.inside(point) * (term(with_cond) - term(with_null))


GUIDANCES: dict[str, type[Guidance]] = {"enhanced": EnhancedTarget}
