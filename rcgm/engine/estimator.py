"""What an estimator of the derivative along a path is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from rcgm.engine.combination import Combination
from rcgm.engine.queries import Derivative, Query

Plan = tuple[list[Query], Callable[[list[Tensor]], Combination]]


class Estimator(ABC):
    """Turns a derivative into queries, and their answers into a combination.

    The queries ride in the wave of the derivative. The combination is not evaluated: its terms and coefficients go into
    the residual, so that the difference is formed in the fused loss.
    """

    @abstractmethod
    def plan(self, derivative: Derivative) -> Plan:
        """The queries for ``derivative``, and what makes a combination of their answers."""

    def state(self) -> nn.Module | None:
        """Persistent state, saved with the checkpoint; None without any."""
        return None

    def report(self) -> dict[str, Tensor]:
        """Numbers worth logging, tensors of no dimension by name."""
        return {}
