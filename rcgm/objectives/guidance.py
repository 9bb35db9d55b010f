"""Guidance at training time: it changes the regression target, so that sampling needs one forward per step (math.md 3).

The form of each paper is a subclass of ``Guidance`` and a line in ``GUIDANCES`` (``guidances.py``).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from rcgm.checks import one_of
from rcgm.engine.combination import Combination, term
from rcgm.engine.queries import NETWORKS, STUDENT, TARGET, TEACHER, Query
from rcgm.objectives.point import Point


@dataclass(frozen=True)
class Guidance(ABC):
    """Changes the regression target where ``t_min <= t <= t_max``. Samples whose condition was dropped keep theirs.

    Args:
        scale: strength of the guidance, ``>= 0``.
        t_min, t_max: the range of ``t``, in [0, 1].
        network: whose estimates guide: ``"target"``, ``"student"`` (without gradient) or ``"teacher"``.

    Raises:
        ValueError: unless ``0 <= t_min <= t_max <= 1``, ``scale`` is finite and >= 0, and the network is known.
    """

    asks_null: ClassVar[bool] = True
    """True if :meth:`queries` ask for the null condition."""

    scale: float
    t_min: float = 0.0
    t_max: float = 1.0
    network: str = TARGET

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(f"guidance scale must be a finite number >= 0, got {self.scale!r}")
        if not 0 <= self.t_min <= self.t_max <= 1:
            got = f"{self.t_min!r} and {self.t_max!r}"
            raise ValueError(f"guidance t_min and t_max must have 0 <= t_min <= t_max <= 1, got {got}")
        one_of("guidance network", self.network, NETWORKS)

    def queries(self, point: Point) -> list[Query]:
        """The evaluations that guidance needs: the instantaneous predictions with the condition and without."""
        return [
            Query(point.x_t, point.t, point.t, self.network),
            Query(point.x_t, point.t, point.t, self.network, null=True),
        ]

    @abstractmethod
    def regression_target(self, point: Point, plain: Combination, answers: list[Tensor]) -> Combination:
        """The guided regression target, from the ``plain`` one and the answers ``[B, ...]`` to :meth:`queries`."""

    def inside(self, point: Point) -> Tensor:
        """1 for the samples that are guided, 0 for the others, ``[B]``."""
        inside = (point.t >= self.t_min) & (point.t <= self.t_max)
        if point.dropped is not None:
            inside &= ~point.dropped
        return inside.to(point.t.dtype)


@dataclass(frozen=True)
class EnhancedTarget(Guidance):
    """``target + scale (F_cond - F_null)`` (RCGM section 3.3; UCGM section 3.3 inside its range)."""

    def regression_target(self, point: Point, plain: Combination, answers: list[Tensor]) -> Combination:
        with_cond, with_null = answers
        return plain + self.scale * self.inside(point) * (term(with_cond) - term(with_null))


@dataclass(frozen=True)
class SelfEnhancedTarget(Guidance):
    """UCGM's enhanced target without a teacher, for its ``consistency_ratio=0`` (section 3.1; math.md section 4).

    ``target + scale (F_cond - F_null)`` inside the range, ``(target + F_cond)/2`` outside it, and ``(target +
    F_null)/2`` on samples whose condition was dropped. Decomposed into data and noise, this is the paper's ``x* = x +
    zeta (x_cond - x_null)``, and the same for the noise. The conditional estimate is the student's, without gradient;
    the null one is that of ``network`` (the EMA).

    Args:
        scale: zeta, from 0 to below 1. A student that has learned the target estimates ``x_null + (x - x_null)/(1 -
            zeta)``, which is guidance of strength ``1/(1 - zeta)``.

    Raises:
        ValueError: unless ``scale < 1`` (there is no such student beyond); and as for all guidance.
    """

    t_max: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scale < 1:
            raise ValueError(f"guidance scale of a self-enhanced target must be from 0 to below 1, got {self.scale!r}")

    def queries(self, point: Point) -> list[Query]:
        return [
            Query(point.x_t, point.t, point.t, STUDENT),
            Query(point.x_t, point.t, point.t, self.network, null=True),
        ]

    def regression_target(self, point: Point, plain: Combination, answers: list[Tensor]) -> Combination:
        with_cond, with_null = answers
        return self.enhanced(point, plain, term(with_cond), term(with_null))

    def enhanced(self, point: Point, plain: Combination, with_cond: Combination, with_null: Combination) -> Combination:
        """The regression target from the ``plain`` one and the two estimates."""
        inside, outside, dropped = _regions(self, point)
        guided = inside * (plain + self.scale * (with_cond - with_null))
        return guided + 0.5 * outside * (plain + with_cond) + 0.5 * dropped * (plain + with_null)


@dataclass(frozen=True)
class TeacherEnhancedTarget(Guidance):
    """UCGM's enhanced target with a frozen multi-step teacher, for its ``consistency_ratio > 0`` (appendix C.1.3).

    ``target + scale (F_teacher - target)`` inside the range and ``(target + F_teacher)/2`` outside it: the paper's
    ``x* = x + zeta (x_teacher - x)``, and the same for the noise; one evaluation. Samples whose condition was dropped
    keep their target, as in the authors' program.
    """

    asks_null: ClassVar[bool] = False

    t_max: float = 0.75
    network: str = TEACHER

    def queries(self, point: Point) -> list[Query]:
        return [Query(point.x_t, point.t, point.t, self.network)]

    def regression_target(self, point: Point, plain: Combination, answers: list[Tensor]) -> Combination:
        inside, outside, _ = _regions(self, point)
        return plain + (self.scale * inside + 0.5 * outside) * (term(answers[0]) - plain)


@dataclass(frozen=True)
class MixedTarget(Guidance):
    """``data target + scale F_cond + (1 - data - scale) F_null`` inside the range: TiM's guidance.

    The text of the TiM paper has no formula for it. This is what the program of its authors does, with ``data`` 1,
    ``scale`` 0.75 and the range [0.3, 0.8] on ImageNet; with these it is the enhanced target of guidance-free diffusion
    (reference 75 of the paper).

    Args:
        scale: weight of the conditional estimate, which is not evaluated at 0.
        data: weight of the target itself.
        both_times: true if ``r`` must be in the range too, as in later settings of the authors.
        guide_dropped: true if samples whose condition was dropped are guided too, towards the condition that they had.
            TiM's authors do that, MeanFlow's do not.

    Raises:
        ValueError: for ``data`` that is not finite; and as for all guidance.
    """

    data: float = 1.0
    both_times: bool = False
    guide_dropped: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.data):
            raise ValueError(f"guidance data must be a finite number, got {self.data!r}")

    def queries(self, point: Point) -> list[Query]:
        with_cond, with_null = super().queries(point)
        return [*([replace(with_cond, undropped=self.guide_dropped)] if self.scale else []), with_null]

    def regression_target(self, point: Point, plain: Combination, answers: list[Tensor]) -> Combination:
        *with_cond, with_null = (term(answer) for answer in answers)
        change = (self.data - 1) * plain + (1 - self.data - self.scale) * with_null
        for estimate in with_cond:
            change += self.scale * estimate
        return plain + self.inside(point) * change

    def inside(self, point: Point) -> Tensor:
        inside = super().inside(replace(point, dropped=None) if self.guide_dropped else point)
        return inside * ((point.r >= self.t_min) & (point.r <= self.t_max)) if self.both_times else inside


@dataclass(frozen=True)
class NormalizedTarget(Guidance):
    """``target + scale size (F_cond - F_null)/rms(F_cond - F_null)``: DE-CM's velocity normalisation (Algorithm 1).

    ``scale`` is the paper's ``w_cfg - 1``, and ``size`` its eta. The norm is the root mean square over the sample, so
    that ``size`` does not depend on the resolution.

    Args:
        size: root mean square of the guiding difference at ``scale`` 1.

    Raises:
        ValueError: unless ``size`` is a finite number > 0; and as for all guidance.
    """

    size: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.size < math.inf:
            raise ValueError(f"guidance size must be a finite number > 0, got {self.size!r}")

    def regression_target(self, point: Point, plain: Combination, answers: list[Tensor]) -> Combination:
        with_cond, with_null = answers
        norm = (with_cond - with_null).flatten(1).to(point.t.dtype).square().mean(1).sqrt()
        strength = torch.where(norm > 0, self.size / torch.where(norm > 0, norm, 1), 0)
        strength = torch.where(self.inside(point) > 0, self.scale * strength, 0)
        return plain + strength * (term(with_cond) - term(with_null))


def _regions(guidance: Guidance, point: Point) -> tuple[Tensor, Tensor, Tensor]:
    """Three masks ``[B]`` of 1 and 0: samples inside the range, outside it, and with a dropped condition."""
    inside = guidance.inside(point)
    dropped = torch.zeros_like(inside) if point.dropped is None else point.dropped.to(inside.dtype)
    return inside, 1 - inside - dropped, dropped
