"""TwinFlow: recursive few-step training that is its own adversary (Cheng et al. 2025; math.md section 9)."""

from __future__ import annotations

from dataclasses import dataclass, field

from rcgm.objectives.rcgm import RCGM
from rcgm.objectives.self_adversarial import SelfAdversarial
from rcgm.objectives.times import TimeSampler
from rcgm.objectives.weights import TangentWeight, Weighting
from rcgm_kernels import Metric


@dataclass(frozen=True, kw_only=True)
class TwinFlow(RCGM):
    """RCGM in three quarters of the batch, flow matching of the model's own samples in the fourth, and rectification.

    ::

        end     t = 1, r = 0          data    RCGM of order N, and the rectification
        short   r = t - 0.05 u t      data    RCGM                                         u ~ U(0, 1)
        any     r = t - u t           data    RCGM
        fake    called at (-t, -t)    fakes   flow matching

    in equal shares; see ``SelfAdversarial``. Published settings are the defaults, with an average of decay 0.99 as the
    target network and ``EnhancedTarget(0.5, t_max=0.999)``: the program does not guide at ``t = 1``. Image-free
    distillation is ``SelfAdversarial(image_free=True)`` with ``supervision="teacher"``, ``network="student"`` and
    ``EnhancedTarget(ratio - 1, network="teacher")``, where the program takes the frozen network without a condition
    as the start of guidance and has ``ratio`` times the difference.

    Args:
        order: N; 2 as published, or any other from 1 on.

    Raises:
        ValueError: as ``RCGM``; and without the term.
    """

    times: TimeSampler = field(default_factory=lambda: TimeSampler(short=0.5))
    metric: Metric = field(default_factory=lambda: Metric("barron_reweighting", c=1e-3))
    sample_weight: Weighting | None = field(default_factory=TangentWeight)
    self_adversarial: SelfAdversarial = field(default_factory=SelfAdversarial)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.self_adversarial is None:
            raise ValueError("self_adversarial must be given for twinflow; rcgm is the same without it, got None")
