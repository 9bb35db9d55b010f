"""What a network computes in more than half precision, whatever its weights and autocast say.

A finite difference along t divides the rounding of two evaluations by their distance in time. In a DiT of 12 layers
under bfloat16 autocast, half of its error came from the few rows that carry the condition: the embeddings of the times
and the modulation. They are a small share of the arithmetic, so they stay in float32.
"""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FullPrecisionLinear", "full_precision", "leaving_autocast"]


def full_precision(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for any lower floating dtype."""
    return torch.promote_types(dtype, torch.float32)


class FullPrecisionLinear(nn.Linear):
    """A linear layer that leaves autocast and computes in float32, or float64 if its weights are.

    Weights in half precision are widened for the product, so that at least its input and output are not rounded.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in_features]`` to ``[..., out_features]``, in ``full_precision`` of the weights' dtype."""
        dtype = full_precision(self.weight.dtype)
        with leaving_autocast(x.device):
            return F.linear(x.to(dtype), self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype))


def leaving_autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """A context in which operations on ``device`` keep their dtypes."""
    # The meta device has no autocast to leave, and torch.autocast raises there. It is asked by name, since
    # torch.amp.is_autocast_available breaks the graph of torch.compile in torch 2.11.
    return contextlib.nullcontext() if device.type == "meta" else torch.autocast(device_type=device.type, enabled=False)
