"""What an objective may ask of the engine: evaluations of a network, and derivatives of it along a path."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from rcgm.distributed.shares import Share

Answer = TypeVar("Answer")
Queries = Generator[list[Any], list[Any], Answer]
"""A generator that yields waves (lists of queries), is sent their answers and returns an ``Answer``."""

STUDENT, TARGET, TEACHER = "student", "target", "teacher"
NETWORKS = (STUDENT, TARGET, TEACHER)
SOURCES = (STUDENT, TARGET)
"""The networks that an objective may take its own evaluations without gradient from."""


@dataclass(frozen=True, eq=False)
class Tangent:
    """A direction in ``(x, t, r)``.

    Args:
        x: direction of the states, ``[B, ...]``.
        t, r: speeds of the two times.
    """

    x: Tensor
    t: float = 1.0
    r: float = 0.0


@dataclass(frozen=True, eq=False)
class Query:
    """One evaluation of the prediction for the interval ``[r, t]`` at ``x``. Its answer is a tensor ``[B, ...]``.

    Args:
        x: states, ``[B, ...]``.
        t, r: times, ``[B]``.
        network: ``"target"``, ``"student"`` (without gradient) or ``"teacher"``.
        null: evaluate with the null condition.
        start: number of leading samples that are left out; the answer is 0 there.
        stop: number of the first sample after those that are evaluated; None for all from ``start`` on.
        tangent: ask for the derivative in this direction, by forward-mode AD, instead of the value.
        undropped: evaluate with the condition as it was before it was dropped in some samples.
        guidance: scale and interval of guidance ``[B, 3]`` for a network that takes them as inputs, instead of those of
            the samples.
    """

    x: Tensor
    t: Tensor
    r: Tensor
    network: str = TARGET
    null: bool = False
    start: int = 0
    tangent: Tangent | None = None
    undropped: bool = False
    guidance: Tensor | None = None
    stop: int | None = None

    @property
    def rows(self) -> slice:
        """The samples that are evaluated."""
        return slice(self.start, len(self.t) if self.stop is None else self.stop)


@dataclass(frozen=True, eq=False)
class Derivative:
    """The derivative of the prediction at ``(x, t, r)`` along a path. Its answer is a ``Combination``.

    With the tangent ``(v, a, b)`` it is ``d/ds F(x + s v, t + a s, r + b s)`` at ``s = 0``. With ``(v, 1, 0)``, where
    ``v`` is the velocity, it is the total derivative ``dF/dt``. An estimator (``rcgm.derivatives``) computes it.

    Args:
        x, t, r, network, null, start: as in ``Query``.
        tangent: direction of the path.
        curve: a function from ``s`` ``[B]`` to the states of the path, ``[B, ...]``, where the path is not the straight
            line ``x + s v``: finite differences then evaluate on it.
        at_prediction: True if the student predicts at ``(x, t, r)`` in this step; an estimator may then use that
            prediction instead of evaluating again.
        share: which rows of a step's batch the samples are; None for all.
    """

    x: Tensor
    t: Tensor
    r: Tensor
    tangent: Tangent
    network: str = STUDENT
    null: bool = False
    start: int = 0
    curve: Callable[[Tensor], Tensor] | None = None
    at_prediction: bool = False
    share: Share | None = None


def together(*generators: Queries[Any]) -> Queries[list[Any]]:
    """Run generators side by side: what they yield at a time becomes one wave. Returns their results, in order."""
    results: list[Any] = [None] * len(generators)
    answers: dict[int, Any] = dict.fromkeys(range(len(generators)))
    while answers:
        waves = {}
        for index, answer in answers.items():
            try:
                waves[index] = generators[index].send(answer)
            except StopIteration as finished:
                results[index] = finished.value
        if not waves:
            break
        replies = iter((yield [query for wave in waves.values() for query in wave]))
        answers = {index: [next(replies) for _ in wave] for index, wave in waves.items()}
    return results
