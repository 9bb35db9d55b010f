"""Finite differences that stay inside ``0 <= r <= t <= 1``."""

from __future__ import annotations

import torch
from torch import Tensor

from rcgm.queries import Derivative, Query


def reach(derivative: Derivative) -> tuple[Tensor, Tensor]:
    """How far back (``<= 0``) and ahead (``>= 0``) the path can be followed with ``0 <= r <= t <= 1``; ``[B]`` each."""
    t, r, tangent = derivative.t, derivative.r, derivative.tangent
    back, ahead = torch.full_like(t, -torch.inf), torch.full_like(t, torch.inf)
    for room, speed in ((1 - t, -tangent.t), (r, tangent.r), (t - r, tangent.t - tangent.r), (t, tangent.t)):
        if speed > 0:
            back = torch.maximum(back, -room.clamp(min=0) / speed)
        elif speed < 0:
            ahead = torch.minimum(ahead, room.clamp(min=0) / -speed)
    return back, ahead


def two_nodes(derivative: Derivative, step: Tensor, *, centred: bool) -> tuple[Tensor, Tensor]:
    """Offsets ``[B]`` of the two evaluations: ``-step, step`` where both fit, else the point itself and one that fits.

    Without ``centred``, the point itself and the one behind it. Where the path has no room for a whole step on either
    side, the longer side's room is the step; where it has none at all both offsets are 0.
    """
    back, ahead = reach(derivative)
    nothing = torch.zeros_like(step)
    backwards = -back >= torch.minimum(ahead, step)
    first = torch.where(backwards, torch.maximum(back, -step), nothing)
    last = torch.where(backwards, nothing, torch.minimum(ahead, step))
    if not centred:
        return first, last
    both = (back <= -step) & (ahead >= step)
    return torch.where(both, -step, first), torch.where(both, step, last)


def query_at(derivative: Derivative, offset: Tensor) -> Query:
    """The evaluation at ``offset`` ``[B]`` along the path."""
    tangent = derivative.tangent
    t = (derivative.t + tangent.t * offset).clamp(0, 1)
    r = (derivative.r + tangent.r * offset).clamp(min=0) if tangent.r else derivative.r
    if derivative.curve is not None:
        x = derivative.curve(offset)
    else:
        x = derivative.x + offset.reshape(-1, *[1] * (derivative.x.ndim - 1)).to(derivative.x.dtype) * tangent.x
    return Query(x, t, torch.minimum(r, t), derivative.network, derivative.null, derivative.start)
