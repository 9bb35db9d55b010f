"""UCGM-S: one sampler for multi-step and few-step models (math.md section 4)."""

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

STYLES = ("few", "any", "multi")
SDE = "sde"


@torch.no_grad()
def sample_ucgm(
    network: Network,
    noise: Tensor,
    cond: Condition = None,
    *,
    steps: int = 1,
    times: Sequence[float] | None = None,
    warp: tuple[float, float, float] = (1.0, 1.0, 1.0),
    gaps: tuple[float, float] = (0.0, 0.0),
    extrapolation: float = 0.0,
    stochasticity: float | str | None = None,
    order: int = 1,
    style: str = "few",
    **options: Any,
) -> Tensor:
    """Each step takes the prediction apart into data and noise, and joins them again at the next time.

    ::

        x_hat += extrapolation (x_hat - previous x_hat), the same for z_hat         from the third step on
        x_{t'} = gamma(t') x_hat + alpha(t') (sqrt(1 - rho) z_hat + sqrt(rho) noise)

    Published settings: multi-step ``style="multi", warp=(1.17, 0.8, 1.1)``, extrapolation 0.2 to 0.6, rho 0; few-step
    the defaults with ``gaps=(0, 0.2 to 0.8)``.

    Args:
        steps: evaluations (twice as many less one at order 2).
        times: the schedule itself instead of ``steps``, ``warp`` and ``gaps``.
        warp: (a, b, c) of :func:`rcgm.sampling.schedules.kumaraswamy`.
        gaps: its gaps at the noise and at the data.
        extrapolation: kappa, from 0 to 1. With even steps, order 1 and ``style="multi"`` the error is of second order
            at 1/3, and of first at every other value; the paper's 1/2 (theorem 5) is for an extrapolated velocity.
        stochasticity: rho, from 0 to 1; None takes 1 for ``style="few"`` at order 1, else 0: joined with noise that is
            not fresh, the data of a consistency function make no state that it knows, and 4 such steps of an exact
            one widen the samples by half. Or ``"sde"``, ``2 alpha(t) (t - t') / alpha(t')^2``, at most 1: noise with
            the variance of an SDE's step (appendix: proportional to the length of the step).
        order: 2 adds a Heun correction, of the pair without extrapolation; not with stochasticity, which it would
            average away, nor with ``style="any"``, whose predictions are means over different intervals.
        style: the interval that the network is asked for: ``"few"``, to 0; ``"any"``, to the next time; ``"multi"``,
            ``r = t``.
        options: those of every sampler; the state is float64 unless ``dtype`` says otherwise.

    Returns, errors: as :func:`~rcgm.sampling.sample_any_step`; samples are returned in the dtype of ``noise``.
    """
    schedule = schedules.kumaraswamy(steps, *warp, *gaps) if times is None else schedules.check_schedule(times)
    if not 0 <= extrapolation <= 1:
        raise ValueError(f"extrapolation must be from 0 to 1, got {extrapolation!r}")
    if stochasticity is None:
        stochasticity = 1.0 if style == "few" and order == 1 else 0.0
    if stochasticity != SDE and (isinstance(stochasticity, str) or not 0 <= stochasticity <= 1):
        raise ValueError(f"stochasticity must be from 0 to 1 or 'sde', got {stochasticity!r}")
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}")
    if order == 2 and stochasticity != 0:
        raise ValueError("order 2 must have stochasticity 0: it would average the fresh noise away")
    if style not in STYLES:
        raise ValueError(f"style must be one of {', '.join(STYLES)}, got {style!r}")
    if order == 2 and style == "any":
        raise ValueError("order 2 must have style few or multi: steps of style any are exact for their network already")
    run = Run(network, noise, cond, len(schedule) - 1, Options(**{"dtype": torch.float64, **options}))
    previous: tuple[Tensor, ...] = ()
    for index, (t, after) in enumerate(pairwise(schedule)):
        pair = run.pair(run.x, run.predict(run.x, t, {"few": 0.0, "any": after, "multi": t}[style]), t)
        now = pair
        if index >= 2 and extrapolation:
            now = tuple(value + extrapolation * (value - old) for value, old in zip(pair, previous, strict=True))
        previous = pair
        data, own = now
        rho = _rho(run, stochasticity, t, after)
        if rho:
            own = math.sqrt(1 - rho) * own + math.sqrt(rho) * run.fresh()
        x = run.join(data, own, after)
        if order == 2 and after > 0:
            end = 0.0 if style == "few" else after
            x = run.move(run.x, (run.regressed(*pair, t) + run.predict_as_at(x, after, end, t)) / 2, t, after)
        run.advance(x)
    samples = run.result(schedule[-1])
    return samples if "dtype" in options else samples.to(noise.dtype)


def _rho(run: Run, stochasticity: float | str, t: float, after: float) -> float:
    if after == 0:
        return 0.0
    if stochasticity != SDE:
        return float(stochasticity)
    noise_now, noise_after = run.transport.alpha(torch.tensor([t, after], dtype=torch.float64)).tolist()
    return min(2 * noise_now * (t - after) / noise_after**2, 1.0)
