"""What is done about target forwards that leave the range of float16."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from rcgm.distributed.shares import Share
from rcgm.objectives.residual import AnyResidual


class Overflow(nn.Module):
    """Counts the samples that were left out of a step because a target forward of theirs was not finite.

    They count as if their residual were 0 in that step, and the others are as they were: nothing waits for the device
    to find out, no forward is repeated, and no gradient is made of what is not a number. Evaluating them again in
    another format would need the host to know which they are.
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
    """Which samples of ``[B, ...]`` hold finite values only, ``[B]``."""
    return values.isfinite().flatten(1).all(1)


def without(residual: AnyResidual, kept: Tensor) -> AnyResidual:
    """``residual`` with weight 0, by which the losses leave a sample out whatever it holds, where ``kept`` is false."""
    weight = torch.ones_like(kept, dtype=torch.float32) if residual.weight is None else residual.weight
    return replace(residual, weight=torch.where(kept, weight, 0))
