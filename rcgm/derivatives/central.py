"""Central differences (DDE of TiM, equation 10; UCGM): independent evaluations in one wave."""

from __future__ import annotations

from dataclasses import dataclass

from rcgm.derivatives.stencils import (
    check_step,
    difference,
    four_nodes,
    interpolating_weights,
    query_at,
    reach,
    two_nodes,
)
from rcgm.engine.estimator import Estimator, Plan
from rcgm.engine.queries import Derivative


@dataclass(frozen=True)
class Central(Estimator):
    """``(F(s + e) - F(s - e))/(2e)``, or the fourth-order stencil of ``s - 2e, s - e, s + e, s + 2e``.

    Where the path would leave ``r <= t <= 1`` the nodes are cut (order 2) or moved (order 4) to stay inside. At the
    ends of [0, 1] and at ``t = r`` the difference is one-sided. The error is of order ``e^2`` or ``e^4``; there it is
    of order ``e`` or ``e^3``.

    Args:
        step: e; 0.005 in the papers. A bf16 network needs a larger one (math.md section 6), see ``Auto``.
        order: 2, with two evaluations, or 4, with four. Order 4 allows a step several times as large, which amplifies
            the network's rounding less; use it where that rounding is the larger error.

    Raises:
        ValueError: unless ``0 < step * order / 2 <= 0.5``, or for another order.
    """

    step: float = 0.005
    order: int = 2

    def __post_init__(self) -> None:
        if self.order not in (2, 4):
            raise ValueError(f"order of a central difference must be 2 or 4, got {self.order!r}")
        check_step("step", self.step, 1 / self.order)

    def plan(self, derivative: Derivative) -> Plan:
        nodes = (two_nodes if self.order == 2 else four_nodes)(*reach(derivative), self.step)
        weights = interpolating_weights(nodes)
        return [query_at(derivative, node) for node in nodes], lambda answers: difference(answers, weights)
