"""The central difference (TiM's DDE, UCGM): two independent evaluations in one wave."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rcgm.combination import Combination
from rcgm.derivatives.base import Estimator, Plan
from rcgm.derivatives.stencils import query_at, two_nodes
from rcgm.queries import Derivative


def check_step(step: float) -> None:
    if not 0 < step <= 0.5:
        raise ValueError(f"step of a difference must be in (0, 0.5], got {step!r}")


@dataclass(frozen=True)
class Central(Estimator):
    """``F(s + e)/(2e) - F(s - e)/(2e)``, error ``e^2``; one-sided, error ``e``, where the path leaves ``r <= t <= 1``.

    Args:
        step: e; the papers' value is 0.005. A bf16 network wants a larger one (math.md section 6), see ``auto``.

    Raises:
        ValueError: unless ``0 < step <= 0.5``.
    """

    step: float = 0.005

    def __post_init__(self) -> None:
        check_step(self.step)

    def plan(self, derivative: Derivative) -> Plan:
        offsets = two_nodes(derivative, torch.full_like(derivative.t, self.step), centred=True)
        return [query_at(derivative, offset) for offset in offsets], lambda answers: difference(answers, *offsets)


def difference(answers: list[Tensor], first: Tensor, last: Tensor) -> Combination:
    """The slope between two evaluations; 0 where they coincide."""
    width = last - first
    inverse = torch.where(width > 0, 1 / torch.where(width > 0, width, 1), 0)
    return Combination(tuple(answers), (-inverse, inverse))
