"""Finite differences whose evaluations stay inside ``0 <= r <= t <= 1``: nodes, weights and queries."""

from __future__ import annotations

import torch
from torch import Tensor

from rcgm.engine.combination import Combination, per_sample
from rcgm.engine.queries import Derivative, Query


def check_step(name: str, step: float, largest: float = 0.5) -> None:
    """Raises ``ValueError`` unless ``0 < step <= largest``."""
    if not 0 < step <= largest:
        raise ValueError(f"{name} of a difference must be above 0 and at most {largest:g}, got {step!r}")


def reach(derivative: Derivative) -> tuple[Tensor, Tensor]:
    """How far back (``<= 0``) and ahead (``>= 0``) the path stays in ``0 <= r <= t <= 1``; ``[B]`` each."""
    t, r, tangent = derivative.t, derivative.r, derivative.tangent
    back, ahead = torch.full_like(t, -torch.inf), torch.full_like(t, torch.inf)
    for room, speed in ((1 - t, -tangent.t), (r, tangent.r), (t - r, tangent.t - tangent.r), (t, tangent.t)):
        if speed > 0:
            back = torch.maximum(back, -room.clamp(min=0) / speed)
        elif speed < 0:
            ahead = torch.minimum(ahead, room.clamp(min=0) / -speed)
    return back, ahead


def two_nodes(back: Tensor, ahead: Tensor, step: Tensor | float) -> Tensor:
    """Offsets ``[2, *]`` of a central difference: ``-step`` and ``step``, each cut where the path ends.

    A cut side costs an order of accuracy: the error of nodes ``-a, b`` is ``(b - a)/2`` times the second derivative, at
    most that of the one-sided difference of the same step, and the noise is divided by ``a + b``. At the end of the
    path it is the one-sided difference. With no room at all both offsets are 0.
    """
    return torch.stack([back.clamp(min=-step), ahead.clamp(max=step)])


def four_nodes(back: Tensor, ahead: Tensor, step: Tensor | float) -> Tensor:
    """Offsets ``[4, *]``: ``-2, -1, 1, 2`` times the step, moved where the path ends, and closer where it is short."""
    step = ((ahead - back) / 4).clamp(max=step)
    first = torch.minimum(torch.maximum(back, -2 * step), ahead - 4 * step)
    # rounding must not lead past the end
    return torch.stack([(first + place * step).clamp(back, ahead) for place in (0, 1, 3, 4)])


def one_sided_nodes(back: Tensor, ahead: Tensor, step: Tensor | float) -> Tensor:
    """Offsets ``[2, *]``: ``-step`` and 0, or 0 and ``step`` where less than a step fits behind and more ahead.

    Where the longer side has no room for a whole step, its room is the step.
    """
    backwards = -back >= ahead.clamp(max=step)
    first = torch.where(backwards, back.clamp(min=-step), 0)
    return torch.stack([first, torch.where(backwards, 0, ahead.clamp(max=step))])


def interpolating_weights(nodes: Tensor) -> Tensor:
    """Weights ``[n, *]`` of the derivative at 0 of the polynomial through values at ``nodes``; 0 where these coincide.

    Exact for polynomials of degree ``n - 1``, and of degree ``n`` (even) for nodes symmetric about 0.
    """
    width, usable = _width(nodes)
    places = (nodes / width).unbind(0)
    weights = []
    for i, own in enumerate(places):
        others = [place for j, place in enumerate(places) if j != i]
        scale = torch.ones_like(own)
        for other in others:
            scale = scale * torch.where(usable, own - other, 1)
        derivative = torch.zeros_like(own)
        for left_out in range(len(others)):
            product = torch.ones_like(own)
            for j, other in enumerate(others):
                if j != left_out:
                    product = product * -other
            derivative = derivative + product
        weights.append(derivative / scale)
    return torch.where(usable, torch.stack(weights) / width, 0)


def regression_weights(nodes: Tensor) -> Tensor:
    """Weights ``[n, *]`` of the derivative of the least-squares line, which of all has the least noise."""
    width, usable = _width(nodes)
    centred = nodes / width - (nodes / width).mean(0)
    squares = torch.where(usable, (centred * centred).sum(0), 1)
    return torch.where(usable, centred / squares / width, 0)


def _width(nodes: Tensor) -> tuple[Tensor, Tensor]:
    width = nodes[-1] - nodes[0]
    # Below this float32 times cannot tell the nodes apart.
    usable = width > 1e-6
    return torch.where(usable, width, 1), usable


def difference(answers: list[Tensor], weights: Tensor) -> Combination:
    """``sum_i weights[i] answers[i]``; each answer ``[B, ...]`` is scaled before the sum, weights ``[n, B]``."""
    return Combination(tuple(answers), tuple(weights.unbind(0)))


def query_at(derivative: Derivative, offset: Tensor, start: int | None = None) -> Query:
    """The evaluation at ``offset`` ``[B]`` along the path, for the samples from ``start`` on (None: all)."""
    tangent = derivative.tangent
    t = (derivative.t + tangent.t * offset).clamp(0, 1)
    r = (derivative.r + tangent.r * offset).clamp(min=0) if tangent.r else derivative.r
    if derivative.curve is not None:
        x = derivative.curve(offset)
    else:
        x = derivative.x + per_sample(offset, derivative.x).to(derivative.x.dtype) * tangent.x
    if tangent.t >= tangent.r:  # r is fixed or slower: a t that rounding puts below r is moved up to it
        t = torch.maximum(t, r)
    else:
        r = torch.minimum(r, t)
    return Query(x, t, r, derivative.network, derivative.null, derivative.start if start is None else start)
