"""MeanFlow: the average velocity by its identity (Geng et al. 2025; math.md section 3)."""

from __future__ import annotations

from dataclasses import dataclass, field

from rcgm.objectives.base import Weighting
from rcgm.objectives.tim import TiM
from rcgm.objectives.times import TimeSampler
from rcgm.transports import Linear, Transport


@dataclass(frozen=True, kw_only=True)
class MeanFlow(TiM):
    """``R = F - v + (t - r) dF/dt``; under other transports TiM's identity, of which this is the linear case.

    Published settings are the defaults: logit-normal times, ``r = t`` in three quarters of the samples, adaptive weight
    with power 1, the student's own derivative along the guided velocity. The authors sum over the elements of a sample
    (``reduce="sum"``), with an eps of 0.01 in the weight of their program and of 1e-3 in the paper. Their guidance is
    ``MixedTarget(scale=kappa, data=omega, network="student")``: the velocity becomes ``omega v + kappa F_cond + (1 -
    omega - kappa) F_null``.

    Args:
        inputs: ``"guided"``, along the guided velocity as published, or ``"data"`` (see ``TiM``).
    """

    times: TimeSampler = field(
        default_factory=lambda: TimeSampler("logit_normal", -0.4, 1.0, interval="sorted", equal=0.75)
    )
    transport: Transport = field(default_factory=Linear)
    inputs: str = "guided"
    sample_weight: Weighting | None = None
