"""The one-sided difference: one evaluation beside the prediction that the step makes anyway."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rcgm.combination import Combination
from rcgm.derivatives.base import Estimator, Plan
from rcgm.derivatives.central import check_step, difference
from rcgm.derivatives.stencils import query_at, two_nodes
from rcgm.queries import STUDENT, Derivative


@dataclass(frozen=True)
class OneSided(Estimator):
    """``(F(s) - F(s - e))/e``, error ``e``; forwards where there is no room behind.

    Where the student is asked at the point of its own prediction, that prediction is ``F(s)``: one evaluation, not two.

    Args:
        step: e.

    Raises:
        ValueError: unless ``0 < step <= 0.5``.
    """

    step: float = 0.005

    def __post_init__(self) -> None:
        check_step(self.step)

    def plan(self, derivative: Derivative) -> Plan:
        first, last = two_nodes(derivative, torch.full_like(derivative.t, self.step), centred=False)
        if not (derivative.at_prediction and derivative.network == STUDENT and not derivative.null):
            return [query_at(derivative, offset) for offset in (first, last)], lambda answers: difference(
                answers, first, last
            )
        offset = first + last  # one of them is 0

        def combined(answers: list[Tensor]) -> Combination:
            inverse = torch.where(offset != 0, 1 / torch.where(offset != 0, offset, 1), 0)
            return Combination((answers[0],), (inverse,), -inverse)

        return [query_at(derivative, offset)], combined
