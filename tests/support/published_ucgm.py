"""The loss of UCGM's training program, written down as those of `published_loops`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.support.published_loops import DIFFERENCE, Loss, Problem, column, direction, mean


def ucgm(
    ratio: float,
    *,
    zeta: float | None = None,
    c: float = 0.0,
    cosine: bool = False,
    half_pi: float = math.pi / 2,
    upper: float = 0.75,
) -> Loss:
    """The unified loss at a consistency ratio; the enhanced pair replaces data and noise in place.

    Args:
        zeta: strength of the enhanced target, where ``t`` is below ``upper``; without a teacher at ratio 0.
        c: of the pseudo-Huber loss.
        cosine: whether the direction counts too.
        half_pi: the program has 1.57.
    """

    def loss(p: Problem) -> Tensor:
        t = p.t
        r = t if ratio == 0 else torch.zeros_like(t)
        x, z = p.x, p.z
        x_t = column(t) * z + column(1 - t) * x
        prediction = p.student(x_t, t, r, p.kept)
        with torch.no_grad():
            if zeta is not None:
                x, z = _enhanced(p, x_t, prediction.detach(), ratio, zeta, upper)
            target = z - x
            if ratio > 0:

                def endpoint(time: Tensor, answer: Tensor | None = None) -> Tensor:
                    state = column(time) * z + column(1 - time) * x
                    answer = p.student(state, time, r, p.kept) if answer is None else answer
                    return state - column(time) * answer

                if ratio < 1:
                    change = endpoint(t, prediction) - endpoint(ratio * t)
                    change = change / column((1 - ratio) * t)
                else:
                    change = (endpoint(t + DIFFERENCE) - endpoint(t - DIFFERENCE)) / (2 * DIFFERENCE)
                # alpha/(alpha gamma_hat - alpha_hat gamma) is -t
                target = prediction + column(t * 4 / torch.sin(half_pi * t)) * change.clamp(-1, 1)
        losses = (mean((prediction - target) ** 2) + c**2).sqrt() - c
        if cosine:
            losses = losses + direction(prediction, target)
        return (losses * torch.cos(half_pi * t)).mean()

    return loss


def _enhanced(p: Problem, x_t: Tensor, own: Tensor, ratio: float, zeta: float, upper: float) -> tuple[Tensor, Tensor]:
    """The enhanced data and noise."""
    t = column(p.t)

    def pair(answer: Tensor) -> tuple[Tensor, Tensor]:
        return x_t - t * answer, x_t + (1 - t) * answer

    inside = column((p.t > 0) & (p.t < upper))
    null = p.target(x_t, p.t, p.t, p.nulls) if ratio == 0 else None
    guide = own if ratio == 0 else p.teacher(x_t, p.t, p.t, p.kept)
    result = []
    for index, plain in enumerate((p.x, p.z)):
        guided = pair(guide)[index]
        if null is None:
            without, dropped = plain, plain
        else:
            without = pair(null)[index]
            dropped = (plain + without) / 2
        changed = torch.where(inside, plain + zeta * (guided - without), (plain + guided) / 2)
        result.append(torch.where(column(p.dropped), dropped, changed))
    return result[0], result[1]
