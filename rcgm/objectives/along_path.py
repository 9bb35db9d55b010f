"""What MeanFlow, TiM and UCGM share: evaluations of a network along the path, of the data or of the guided pair."""

from __future__ import annotations

from dataclasses import dataclass

from rcgm.checks import one_of
from rcgm.engine.combination import Combination, term
from rcgm.engine.queries import SOURCES, STUDENT, Queries, together
from rcgm.objectives.base import Objective
from rcgm.objectives.point import Point

INPUTS = ("data", "guided")


@dataclass(frozen=True, kw_only=True)
class AlongPath(Objective):
    """Base of objectives that evaluate a network without gradient at neighbouring points of the path.

    Args:
        network: which network, ``"student"`` (without gradient: the papers' theta minus) or ``"target"``.
        inputs: which path, where guidance or a teacher changes the regression target. ``"data"``: that of data and
            noise; these evaluations and those of guidance are one wave. ``"guided"``: that of the changed pair; one
            more wave.

    Raises:
        ValueError: for a value out of range.
    """

    network: str = STUDENT
    inputs: str = "data"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("network", self.network, SOURCES)
        one_of("inputs", self.inputs, INPUTS)

    def target_and_derivative(self, point: Point) -> Queries[tuple[Combination, Combination]]:
        """The regression target and ``dF/dt``, ``r`` fixed. One wave, or two with ``inputs="guided"``."""
        if self.inputs == "guided":
            point = yield from self.with_regression_target(point)
            return term(point.regression_target), (yield from self.total_derivative(point, self.network))
        target, derivative = yield from together(
            self.regression_target(point), self.total_derivative(point, self.network)
        )
        return target, derivative
