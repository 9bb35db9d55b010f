"""Sampling with a consistency model: jump to the data, add noise again (Song et al. 2023, Algorithm 1)."""

from __future__ import annotations

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
def sample_consistency(
    network: Network,
    noise: Tensor,
    cond: Condition = None,
    *,
    steps: int = 1,
    times: Sequence[float] | None = None,
    **options: Any,
) -> Tensor:
    """Samples by a jump from each time of the schedule to the data, and fresh noise up to the next time.

    Arguments, result and errors are those of :func:`~rcgm.sampling.sample_any_step`; the network is asked for ``r = 0``
    alone. The last time of the schedule must be 0.
    """
    schedule = schedules.uniform(steps) if times is None else schedules.check_schedule(times)
    if schedule[-1] != 0:
        raise ValueError(f"times must end at 0 for consistency sampling, got {schedule}")
    run = Run(network, noise, cond, len(schedule) - 1, Options(**options))
    for t, after in pairwise(schedule):
        jump_and_renoise(run, t, after)
    return run.result(0.0)


def jump_and_renoise(run: Run, t: float, after: float) -> None:
    """One step of consistency sampling: from ``t`` to the data, and back to the time ``after``."""
    x = run.move(run.x, run.predict(run.x, t, 0.0), t, 0.0)
    run.advance(run.renoised(x, 0.0, after) if after > 0 else x)
