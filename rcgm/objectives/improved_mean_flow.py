"""Improved MeanFlow: the derivative along the predicted velocity (Geng et al. 2025b; math.md section 8)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from rcgm.checks import one_of
from rcgm.engine.combination import PREDICTION
from rcgm.engine.queries import SOURCES, STUDENT, Queries, Query, together
from rcgm.objectives.input_guidance import InputGuidance
from rcgm.objectives.point import Point
from rcgm.objectives.residual import Residual
from rcgm.objectives.self_adversarial import Adversarial
from rcgm.objectives.tim import transition_residual
from rcgm.objectives.times import TimeSampler
from rcgm.transports import Linear
from rcgm_kernels import AdaptiveWeight


@dataclass(frozen=True, kw_only=True)
class ImprovedMeanFlow(Adversarial):
    """``R = V - v``, ``V = F + (t - r) dF/dt``, with the derivative along the prediction ``F(x_t, t, t)``.

    ``V`` is then a prediction of the velocity made of the network alone, and the loss a regression of it on ``v``; the
    derivative of MeanFlow is along ``v = z - x``, whose noise it carries. One more evaluation, in the wave of guidance;
    the derivative follows in a second wave. Under another transport the residual is that of ``TiM``.

    Published settings are the defaults, with ``InputGuidance()``, ``label_dropout=0.1`` and a network with
    ``guidance_input``. The authors' networks have a second head for the velocity, with a loss of its own in every
    sample; here it is ``F(x_t, t, t)``, the boundary, which the samples with ``r = t`` train.

    Args:
        network: whose derivative and velocity, ``"student"`` (without gradient) as in the paper, or ``"target"``.
        adaptive: by default ``1/(|R|^2 + 0.01)``, where the norm is the sum over the elements.

    Raises:
        ValueError: for a value out of range.
    """

    times: TimeSampler = field(
        default_factory=lambda: TimeSampler("logit_normal", -0.4, 1.0, interval="sorted", equal=0.5)
    )
    network: str = STUDENT
    reduce: str = "sum"
    adaptive: AdaptiveWeight | None = field(default_factory=lambda: AdaptiveWeight(1.0, 0.01))

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("network", self.network, SOURCES)

    def residual(self, point: Point) -> Queries[Residual]:
        v, prediction = yield from together(self.regression_target(point), self._predicted(point))
        velocity = self.transport.velocity(point.x_t, prediction, point.t)
        dF_dt = yield from self.total_derivative(replace(point, velocity=velocity, on_path=False), self.network)
        if isinstance(self.transport, Linear):
            return Residual(PREDICTION + (point.t - point.r) * dF_dt - v)
        return transition_residual(self.transport, point, v, dF_dt)

    def _predicted(self, point: Point) -> Queries[Tensor]:
        """The prediction at ``(x_t, t, t)``, with the condition also where that was dropped, as in the program."""
        told = self.guidance.at_the_time(point) if isinstance(self.guidance, InputGuidance) else None
        asked = Query(
            point.x_t, point.t, point.t, self.network, start=point.equal, undropped=True, guidance=told
        )  # fmt: skip
        (prediction,) = yield [asked]
        return prediction
