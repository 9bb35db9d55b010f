"""Forward-mode automatic differentiation: the baseline of the finite differences."""

from __future__ import annotations

from dataclasses import dataclass

from rcgm.engine.combination import term
from rcgm.engine.estimator import Estimator, Plan
from rcgm.engine.queries import Derivative, Query


@dataclass(frozen=True)
class ForwardMode(Estimator):
    """``torch.func.jvp``: exact to rounding, at about the cost and memory of two forwards.

    It needs attention with a forward-mode rule: torch's math attention, which the engine selects. It does not work with
    FlashAttention, and works with sharded parameters (FSDP2) only from torch 2.13 on. If it does not work with a
    network, the error says what to choose instead.
    """

    def plan(self, derivative: Derivative) -> Plan:
        query = Query(
            derivative.x, derivative.t, derivative.r, derivative.network, derivative.null, derivative.start,
            tangent=derivative.tangent,
        )  # fmt: skip
        return [query], lambda answers: term(answers[0])
