"""The one-sided difference: one evaluation besides the prediction that the step makes anyway."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rcgm.derivatives.stencils import (
    check_step,
    difference,
    interpolating_weights,
    one_sided_nodes,
    query_at,
    reach,
)
from rcgm.engine.combination import Combination
from rcgm.engine.estimator import Estimator, Plan
from rcgm.engine.queries import STUDENT, Derivative


@dataclass(frozen=True)
class OneSided(Estimator):
    """``(F(s) - F(s - e))/e``, with an error of order ``e``; forwards in time where there is no room behind.

    Where the student is asked at the point of its own prediction, ``F(s)`` is that prediction: one evaluation instead
    of two. It has the number format of the training step, not that of the target forwards.

    Args:
        step: e, ``0 < e <= 0.5``.

    Raises:
        ValueError: unless ``0 < step <= 0.5``.
    """

    step: float = 0.005

    def __post_init__(self) -> None:
        check_step("step", self.step)

    def plan(self, derivative: Derivative) -> Plan:
        nodes = one_sided_nodes(*reach(derivative), self.step)
        weights = interpolating_weights(nodes)
        if not (derivative.at_prediction and derivative.network == STUDENT and not derivative.null):
            return [query_at(derivative, node) for node in nodes], lambda answers: difference(answers, weights)
        offset = nodes.sum(0)  # one of them is 0
        forwards = nodes[1] > 0
        weight = weights[1].where(forwards, weights[0])

        def combined(answers: list[Tensor]) -> Combination:
            return Combination((answers[0],), (weight,), -weight)

        return [query_at(derivative, offset)], combined
