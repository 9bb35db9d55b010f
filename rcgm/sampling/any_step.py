"""Sampling with an any-step model: jumps along a schedule of times (RCGM equation 6; TiM Algorithm 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rcgm.engine import Network
from rcgm.engine.conditions import Condition
from rcgm.sampling import schedules
from rcgm.sampling.run import Options, Run


@torch.no_grad()
def sample_any_step(
    network: Network,
    noise: Tensor,
    cond: Condition = None,
    *,
    steps: int = 1,
    times: Sequence[float] | None = None,
    stochasticity: float = 0.0,
    **options: Any,
) -> Tensor:
    """Samples ``x_0`` by ``x_s = A(t, s) x_t + B(t, s) F(x_t, t, s)`` from each time of the schedule to the next.

    Args:
        network: any callable ``(x, t, r, cond) -> tensor`` trained on intervals.
        noise: unit-normal, ``[B, ...]``, float32 or float64.
        cond: condition of the samples.
        steps: number of evenly spaced steps from 1 to 0.
        times: the schedule itself, falling, from at most 1 down to at least 0, instead of ``steps``.
        stochasticity: from 0 to 1. Each step jumps beyond its end, to where ``1 - stochasticity`` of the noise's
            variance is left, and fresh noise makes up for the rest: the marginals stay what they are. TiM's text gives
            no formula for its stochastic sampling; this one needs nothing that a transition model does not have.
        options: those of every sampler: :class:`rcgm.sampling.Options`.

    Returns:
        Samples of the shape of ``noise``, of the dtype of the state.

    Raises:
        TypeError, ValueError: before any work, for an argument that does not fit; the message names it.
    """
    schedule = schedules.uniform(steps) if times is None else schedules.check_schedule(times)
    if not 0 <= stochasticity <= 1:
        raise ValueError(f"stochasticity must be from 0 to 1, got {stochasticity!r}")
    run = Run(network, noise, cond, len(schedule) - 1, Options(**options))
    for t, r in pairwise(schedule):
        if stochasticity == 0 or r == 0:
            run.advance(run.move(run.x, run.predict(run.x, t, r), t, r))
            continue
        beyond = _with_less_noise(run, r, 1 - stochasticity)
        x = run.move(run.x, run.predict(run.x, t, beyond), t, beyond)
        run.advance(run.renoised(x, beyond, r))
    return run.result(schedule[-1])


def _ratio(run: Run, time: float) -> float:
    """Noise over data in the state at ``time``."""
    t = torch.tensor(time, dtype=torch.float64)
    return float(run.transport.alpha(t) / run.transport.gamma(t))


def _with_less_noise(run: Run, r: float, share: float) -> float:
    """The time below ``r`` whose noise, relative to the data, has ``share`` of the variance that it has at ``r``."""
    wanted = math.sqrt(share) * _ratio(run, r)
    low, high = 0.0, r
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _ratio(run, middle) < wanted else (low, middle)
    return low
