"""What a call of an objective gives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ObjectiveOutput:
    """What a call of an objective gives.

    Args:
        loss: scalar with gradient.
        prediction: the student's, without gradient, ``[B, ...]``.
        t, r: the times that were drawn, ``[B]``.
        waves: batched forwards without gradient that depended on one another.
        evaluations: queries answered.
        losses: of each sample, with gradient, in the order of ``t``; ``loss`` is the sum of them over ``len(x)``.
        rows: that were evaluated without gradient, twice where with a tangent.
    """

    loss: Tensor
    prediction: Tensor
    t: Tensor
    r: Tensor
    waves: int
    evaluations: int
    losses: Tensor | None = None
    rows: int = 0
