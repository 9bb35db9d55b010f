"""Sampling with an any-step model: jumps along a schedule of times (RCGM equation 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from rcgm import conditions
from rcgm.conditions import Condition
from rcgm.engine import Network, predict
from rcgm_kernels import advance


@torch.no_grad()
def sample_any_step(
    network: Network,
    noise: Tensor,
    cond: Condition = None,
    *,
    steps: int = 1,
    times: Sequence[float] | None = None,
    guidance: float = 1.0,
    null_cond: Condition = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Samples ``x_0`` by ``x_s = x_t - (t - s) F(x_t, t, s)`` from each time of the schedule to the next.

    Args:
        network: any callable ``(x, t, r, cond) -> tensor`` that predicts the average velocity.
        noise: where to start, ``[B, ...]``, float32 or float64; the state keeps its dtype.
        cond: condition of the samples.
        steps: number of evenly spaced steps from 1 to 0.
        times: the schedule itself, falling, from at most 1 down to at least 0, instead of ``steps``.
        guidance: weight w of ``F_null + w (F_cond - F_null)``; 1 is no guidance and costs nothing. Both halves are one
            forward.
        null_cond: the null condition for guidance, with leading dimension 1 or B.
        progress: called with the number of steps done and their total.

    Returns:
        Samples of the shape and dtype of ``noise``.

    Raises:
        TypeError, ValueError: before any work, for an argument that does not fit; the message names it.
    """
    if not isinstance(noise, Tensor) or noise.dtype not in (torch.float32, torch.float64):
        got = noise.dtype if isinstance(noise, Tensor) else type(noise).__name__
        raise TypeError(f"noise must be a float32 or float64 tensor, got {got}")
    if noise.ndim == 0:
        raise ValueError("noise must have the shape [B, ...], got a scalar tensor")
    batch = noise.shape[0]
    schedule = _schedule(steps, times)
    conditions.check("cond", cond, batch)
    if guidance != 1:
        if cond is None or null_cond is None:
            raise ValueError("guidance other than 1 needs cond and null_cond, got None")
        conditions.check_null(cond, null_cond, batch)
        cond = conditions.concatenate([conditions.expanded(null_cond, batch), cond])
    x = noise.clone()
    for step, (start, end) in enumerate(pairwise(schedule)):
        t, r = x.new_full((batch,), start), x.new_full((batch,), end)
        if guidance == 1:
            velocity = predict("any-step", network, x, t, r, cond)
        else:
            both = predict("any-step", network, torch.cat([x, x]), torch.cat([t, t]), torch.cat([r, r]), cond)
            null, full = both.chunk(2)
            velocity = null + guidance * (full - null)
        advance(x, velocity, t, r, out=x)
        if progress is not None:
            progress(step + 1, len(schedule) - 1)
    return x


def _schedule(steps: int, times: Sequence[float] | None) -> list[float]:
    if times is None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps must be a whole number >= 1, got {steps!r}")
        return [1 - step / steps for step in range(steps + 1)]
    schedule = [float(time) for time in times]
    falls = all(start > end for start, end in pairwise(schedule))
    if len(schedule) < 2 or not falls or schedule[0] > 1 or schedule[-1] < 0:
        raise ValueError(f"times must fall from at most 1 to at least 0, at least two of them, got {schedule}")
    return schedule
