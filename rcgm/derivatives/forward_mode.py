"""Forward-mode automatic differentiation: the baseline that the differences are measured against."""

from __future__ import annotations

from dataclasses import dataclass

from rcgm.engine.combination import term
from rcgm.engine.estimator import Estimator, Plan
from rcgm.engine.queries import Derivative, Query


@dataclass(frozen=True)
class ForwardMode(Estimator):
    """``torch.func.jvp``: exact to rounding, at about the cost and memory of two forwards.

    It needs attention with a forward-mode rule (torch's math attention, which the engine selects) and does not go
    through FlashAttention. Through sharded parameters (FSDP2) it goes from torch 2.13 on. A network that it does not go
    through is an error that says what to choose instead.
    """

    def plan(self, derivative: Derivative) -> Plan:
        query = Query(
            derivative.x, derivative.t, derivative.r, derivative.network, derivative.null, derivative.start,
            tangent=derivative.tangent,
        )  # fmt: skip
        return [query], lambda answers: term(answers[0])
