"""FACM: flow-anchored consistency models (Peng et al. 2025; math.md section 3).

The paper's time runs the other way: its ``t`` is ``1 - t`` here, its ``F`` is ``-F``, its end ``r = 1`` is ``r = 0``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rcgm.objectives.anchored import Anchored, ConsistencyPart
from rcgm.objectives.times import TimeSampler
from rcgm_kernels import AdaptiveWeight


@dataclass(frozen=True, kw_only=True)
class FACM(Anchored):
    """``R = (1 - (1 - t)^p) clamp(F - v + t dF/dt)`` at ``r = 0``, weighted by ``sin(pi t/2)``, and flow matching.

    The average velocity to the data, as in MeanFlow, with flow matching as an anchor at the same ``x_t``. The factor
    relaxes the target towards the student's own prediction where ``t`` is small. The network tells both parts apart by
    ``r``; the authors' own one, which has no ``r``, does by times beyond the data's end.

    Published settings are the defaults, for distillation: ``supervision="teacher"``, a student that begins with the
    weights of the teacher, and ``MixedTarget(0.0, data=1.75, t_max=0.875, network="teacher")``, which is ``F_null +
    1.75 (F_cond - F_null)``. From data, the student takes the teacher's place in guidance.

    Args:
        relaxation: p, ``> 0``. The larger, the less is relaxed.
        clip: of the consistency part.
        adaptive: of the consistency part; by default ``1/sqrt(m + 1e-3)``, where ``m`` is the mean of ``R^2``.

    Raises:
        ValueError: for a value out of range, or another transport.
    """

    times: TimeSampler = field(default_factory=lambda: TimeSampler("arctan", -0.8, 1.6, interval="zero"))
    clip: float | None = 1.0
    adaptive: AdaptiveWeight | None = field(default_factory=lambda: AdaptiveWeight(0.5, 1e-3, of="loss"))
    relaxation: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.relaxation < math.inf:
            raise ValueError(f"relaxation must be a finite number > 0, got {self.relaxation!r}")

    def consistency(self) -> ConsistencyPart:
        return ConsistencyPart(scale=self._kept, weight=_weight, **self.by_derivative())

    def _kept(self, t: Tensor) -> Tensor:
        """The factor of the residual, ``[B]``."""
        return 1 - (1 - t) ** self.relaxation


def _weight(t: Tensor) -> Tensor:
    return torch.sin(math.pi / 2 * t)
