"""Target forwards that leave the range of float16: the sample gets weight 0 in that step, and is counted."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from rcgm.distributed.shares import Share
from rcgm.objectives.residual import AnyResidual, Twofold


class Overflow(nn.Module):
    """Counts the samples that were left out of a step because one of their target forwards was not finite.

    Such a sample has a residual of 0 in that step; the others do not change. Nothing waits for the device, no forward
    is repeated, and no gradient is made of a NaN. To evaluate the sample again in another format, the host would have
    to know which one it is.

    Attributes:
        samples: how many, int64 without dimensions.
        watched: True once float16 forwards were seen.
    """

    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.watched = False
        self.register_buffer("samples", torch.zeros((), dtype=torch.int64))

    def record(self, kept: Tensor, share: Share) -> None:
        """Count the samples of all processes where ``kept`` ``[B]`` is false, on its device."""
        self.watched = True
        if self.samples.device != kept.device:
            self.to(kept.device)
        self.samples += share.add_up_((~kept).sum())


def finite_samples(values: Tensor) -> Tensor:
    """True for the samples of ``[B, ...]`` whose values are all finite, ``[B]``."""
    return values.isfinite().flatten(1).all(1)


def without(residual: AnyResidual, kept: Tensor) -> AnyResidual:
    """``residual`` with weight 0 where ``kept`` ``[B]`` is false: the losses leave these samples out, even NaNs."""
    if isinstance(residual, Twofold):
        return Twofold(without(residual.own, kept), without(residual.further, kept))
    weight = torch.ones_like(kept, dtype=torch.float32) if residual.weight is None else residual.weight
    return replace(residual, weight=torch.where(kept, weight, 0))
