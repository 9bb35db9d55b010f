"""Guidance as an input of a network: its scale and interval, beside the class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.models.embeddings import TimeEmbedder

__all__ = ["GuidanceEmbedder", "labels_and_guidance"]


class GuidanceEmbedder(nn.Module):
    """Embeddings of the scale and of both ends of the interval of guidance, summed; 0 at first.

    Args:
        hidden_size, scale, frequency_size: as those of the times, see :class:`~rcgm.models.embeddings.TimeEmbedder`.

    Source: improved MeanFlow (Geng et al. 2025), which has tokens for them instead of a sum.
    """

    def __init__(self, hidden_size: int, *, scale: float, frequency_size: int) -> None:
        super().__init__()
        self.embedders = nn.ModuleList(
            [TimeEmbedder(hidden_size, scale=scale, frequency_size=frequency_size) for _ in range(3)]
        )

    @torch.no_grad()
    def reset_last(self) -> None:
        """Set the last layers to 0: the network is then the same for every guidance."""
        for embedder in self.embedders:
            nn.init.zeros_(embedder.mlp[2].weight)
            nn.init.zeros_(embedder.mlp[2].bias)

    def forward(self, guidance: Tensor) -> Tensor:
        """``[B, 3]``, scale ``>= 1`` and both ends in [0, 1], to ``[B, hidden_size]``."""
        scale, low, high = guidance.unbind(1)
        return sum(embed(value) for embed, value in zip(self.embedders, (1 - 1 / scale, low, high), strict=True))


def labels_and_guidance(x: Tensor, cond: Any) -> tuple[Any, Tensor]:
    """The class indices and the guidance ``[B, 3]`` in a condition; without any, that of no guidance, ``(1, 0, 1)``.

    Raises:
        ValueError: ``guidance`` has another shape.
    """
    labels, guidance = cond, None
    if isinstance(cond, Mapping):
        labels, guidance = cond.get("labels"), cond.get("guidance")
    if guidance is None:
        # made on the device: to copy it there would make the host wait
        row = torch.ones(len(x), device=x.device)
        guidance = torch.stack([row, 0 * row, row], dim=1)
    if guidance.shape != (len(x), 3):
        raise ValueError(f"cond must have a guidance of the shape [{len(x)}, 3], got {list(guidance.shape)}")
    return labels, guidance
