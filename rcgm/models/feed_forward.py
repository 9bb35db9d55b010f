"""The part of a block that sees one token at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FEED_FORWARDS", "FeedForward", "SwiGLU"]


class FeedForward(nn.Module):
    """Two linear layers with a tanh-approximated GELU between them."""

    def __init__(self, size: int, hidden_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(size, hidden_size)
        self.act = nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(hidden_size, size)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., size]``, any floating dtype, to the same shape in the weights' dtype or autocast's."""
        return self.fc2(self.act(self.fc1(x.to(self.fc1.weight.dtype))))


class SwiGLU(nn.Module):
    """A linear layer gated by the SiLU of another, then a third; two thirds as wide, for as many parameters as without.

    The first two are one matrix, ``w12``, as in LightningDiT's published weights.

    Source: Shazeer 2020.
    """

    def __init__(self, size: int, hidden_size: int) -> None:
        super().__init__()
        width = int(2 / 3 * hidden_size)
        self.w12 = nn.Linear(size, 2 * width)
        self.w3 = nn.Linear(width, size)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., size]``, any floating dtype, to the same shape in the weights' dtype or autocast's."""
        gate, value = self.w12(x.to(self.w12.weight.dtype)).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


FEED_FORWARDS: Mapping[str, Callable[[int, int], nn.Module]] = {"gelu": FeedForward, "swiglu": SwiGLU}
"""Feed-forward networks by name, made of the width of the tokens and the width between the layers."""
