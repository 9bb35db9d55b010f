"""MeanFlow: the average velocity by its identity (Geng et al. 2025; math.md section 3)."""

from __future__ import annotations

from dataclasses import dataclass, field

from rcgm.engine.combination import PREDICTION
from rcgm.engine.queries import Queries
from rcgm.objectives.along_path import AlongPath
from rcgm.objectives.point import Point
from rcgm.objectives.residual import Residual
from rcgm.objectives.self_adversarial import Adversarial
from rcgm.objectives.tim import transition_residual
from rcgm.objectives.times import TimeSampler
from rcgm.objectives.weights import Weighting
from rcgm.transports import Linear, Transport
from rcgm_kernels import AdaptiveWeight


@dataclass(frozen=True, kw_only=True)
class MeanFlow(Adversarial, AlongPath):
    """``R = F - v + (t - r) dF/dt``, the loss of algorithm 1 of the paper, for the linear transport.

    Published settings are the defaults: logit-normal times, ``r = t`` in three quarters of the samples, adaptive weight
    with power 1, the student's own derivative along the guided velocity. The authors sum over the elements of a sample
    (``reduce="sum"``), with an eps of 0.01 in the weight of their program and of 1e-3 in the paper. Their guidance is
    ``MixedTarget(scale=kappa, data=omega, network="student")``: the velocity becomes ``omega v + kappa F_cond + (1 -
    omega - kappa) F_null``. Under another transport the residual is that of ``TiM``.

    Args:
        network: whose derivative, ``"student"`` as in the paper, or ``"target"`` (see ``AlongPath``).
        inputs: ``"guided"``, along the guided velocity as published, or ``"data"`` (see ``AlongPath``).
        adaptive: by default ``1/(|R|^2 + 1e-3)``.

    Raises:
        ValueError: for a value out of range.
    """

    times: TimeSampler = field(
        default_factory=lambda: TimeSampler("logit_normal", -0.4, 1.0, interval="sorted", equal=0.75)
    )
    transport: Transport = field(default_factory=Linear)
    inputs: str = "guided"
    sample_weight: Weighting | None = None
    adaptive: AdaptiveWeight | None = field(default_factory=lambda: AdaptiveWeight(1.0))

    def residual(self, point: Point) -> Queries[Residual]:
        v, dF_dt = yield from self.target_and_derivative(point)
        if not isinstance(
            self.transport, Linear
        ):  # the paper has the linear transport alone; TiM's identity has them all
            return transition_residual(self.transport, point, v, dF_dt)
        return Residual(PREDICTION - v + (point.t - point.r) * dF_dt)
