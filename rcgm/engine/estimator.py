"""Estimators of the derivative along a path."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from rcgm.engine.combination import Combination
from rcgm.engine.queries import Derivative, Query

Plan = tuple[list[Query], Callable[[list[Tensor]], Combination]]


class Estimator(ABC):
    """Turns a derivative into queries, and their answers into a combination.

    The queries are part of the wave of the derivative. The combination is not evaluated here: its terms and
    coefficients go into the residual, and the fused loss forms the difference.
    """

    @abstractmethod
    def plan(self, derivative: Derivative) -> Plan:
        """The queries for ``derivative``, and a function from their answers to the combination."""

    def state(self) -> nn.Module | None:
        """Persistent state, saved with the checkpoint; None without any."""
        return None

    def report(self) -> dict[str, Tensor]:
        """Numbers to log: tensors without dimensions, by name."""
        return {}
