"""Euler and Heun on the instantaneous velocity: for networks of flow matching, and any-step ones at ``r = t``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rcgm.engine import Network
from rcgm.engine.conditions import Condition
from rcgm.sampling import schedules
from rcgm.sampling.run import Options, Run


@torch.no_grad()
def sample_ode(
    network: Network,
    noise: Tensor,
    cond: Condition = None,
    *,
    steps: int = 16,
    times: Sequence[float] | None = None,
    order: int = 1,
    **options: Any,
) -> Tensor:
    """Integrates the flow from each time of the schedule to the next.

    Steps are those of the transport, ``A x_t + B F(x_t, t, t)``: exact where the predicted data and noise do not
    change, whatever the transport, and Euler's under the linear one. Order 2 takes the mean of those at both ends
    (Heun); the step to 0 is of order 1, as no network is asked at a time of 0, where velocities may be infinite.

    Args:
        order: 1 or 2 evaluations a step.

    Other arguments, result and errors are those of :func:`~rcgm.sampling.sample_any_step`.
    """
    schedule = schedules.uniform(steps) if times is None else schedules.check_schedule(times)
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}")
    run = Run(network, noise, cond, len(schedule) - 1, Options(**options))
    for t, r in pairwise(schedule):
        prediction = run.predict(run.x, t, t)
        x = run.move(run.x, prediction, t, r)
        if order == 2 and r > 0:
            x = run.move(run.x, (prediction + run.predict_as_at(x, r, r, t)) / 2, t, r)
        run.advance(x)
    return run.result(schedule[-1])


sample_heun = partial(sample_ode, order=2)
"""Heun's method: :func:`sample_ode` with ``order=2``."""
