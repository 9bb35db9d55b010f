"""Norms of tokens, and of queries and keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NORMS", "HeadNorm"]

EPSILON = 1e-6


class HeadNorm(nn.RMSNorm):
    """Root-mean-square norm over the last dimension, with its gain in the dtype of the input.

    A gain in another dtype, as autocast leaves it, keeps torch from its fused kernel.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., size]`` to the same shape."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


NORMS: Mapping[str, Callable[[int], nn.Module]] = {
    "layer": lambda size: nn.LayerNorm(size, elementwise_affine=False, eps=EPSILON),
    "rms": lambda size: nn.RMSNorm(size, elementwise_affine=False, eps=EPSILON),
    "rms_gain": HeadNorm,
}
"""Norms of tokens by name: layer norm as in DiT, root mean square as in UCGM, and with a gain as in LightningDiT."""
