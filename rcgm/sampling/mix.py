"""DE-CM's mix sampler: along the flow first, consistency steps after it (section 4.5, figure 5c)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rcgm.engine import Network
from rcgm.engine.conditions import Condition
from rcgm.sampling import schedules
from rcgm.sampling.consistency import jump_and_renoise
from rcgm.sampling.run import Options, Run


@torch.no_grad()
def sample_mix(
    network: Network,
    noise: Tensor,
    cond: Condition = None,
    *,
    steps: int = 1,
    times: Sequence[float] | None = None,
    flow_steps: int | None = None,
    **options: Any,
) -> Tensor:
    """Samples by ``flow_steps`` deterministic steps, then by consistency steps.

    The first step jumps from noise to the next time, which is what the noise-to-noisy part trains; the other
    deterministic ones are Euler steps of the instantaneous velocity, which is what the flow-matching part trains.
    Arguments, result and errors are otherwise those of :func:`~rcgm.sampling.sample_consistency`.

    Args:
        flow_steps: number of deterministic steps, below the number of steps; None takes half of them, rounded down. The
            paper does not give it.
    """
    schedule = schedules.uniform(steps) if times is None else schedules.check_schedule(times)
    total = len(schedule) - 1
    if schedule[-1] != 0:
        raise ValueError(f"times must end at 0 for consistency sampling, got {schedule}")
    along = total // 2 if flow_steps is None else flow_steps
    if isinstance(along, bool) or not isinstance(along, int) or not 0 <= along < total:
        raise ValueError(f"flow_steps must be a whole number from 0 to {total - 1}, got {flow_steps!r}")
    run = Run(network, noise, cond, total, Options(**options))
    for index, (t, after) in enumerate(pairwise(schedule)):
        if index < along:
            prediction = run.predict(run.x, t, after if index == 0 else t)
            run.advance(run.move(run.x, prediction, t, after))
        else:
            jump_and_renoise(run, t, after)
    return run.result(0.0)
