"""What a call of an objective returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ObjectiveOutput:
    """What a call of an objective returns.

    Args:
        loss: scalar with gradient.
        prediction: the student's, without gradient, ``[B, ...]``; of several parts one after the other.
        t, r: the times that were drawn, in the order of ``prediction``.
        waves: number of batched forwards without gradient that depended on one another.
        evaluations: number of queries that were answered.
        losses: of each sample, with gradient, in the order of ``t``; ``loss`` is their sum divided by ``len(x)``.
        rows: number of samples that went through a network without gradient; twice where forward-mode AD carried a
            tangent along.
    """

    loss: Tensor
    prediction: Tensor
    t: Tensor
    r: Tensor
    waves: int
    evaluations: int
    losses: Tensor | None = None
    rows: int = 0
