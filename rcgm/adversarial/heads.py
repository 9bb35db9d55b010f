"""What a discriminator learns: a small network on each of the features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Heads"]


class Heads(nn.Module):
    """Logits ``[B, L]`` from features, one for each token of each of them.

    The tokens know their surroundings, the time and the condition from the network that made them. So a head looks at
    one token at a time: a norm and two hidden layers.

    Args:
        widths: features of a token, of each of the features.
        hidden: width of the hidden layers.
    """

    def __init__(self, widths: Sequence[int], hidden: int = 256) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, hidden),
                nn.SiLU(),
                nn.Linear(hidden, hidden),
                nn.SiLU(),
                nn.Linear(hidden, 1),
            )
            for width in widths
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Tokens ``[B, L, C]`` of each of the features to logits ``[B, sum of L]``, in the dtype of the parameters."""
        with torch.autocast(features[0].device.type, enabled=False):
            logits = [
                head(tokens.flatten(1, -2).to(head[1].weight.dtype)).squeeze(-1)
                for head, tokens in zip(self.heads, features, strict=True)
            ]
            return torch.cat(logits, 1)
