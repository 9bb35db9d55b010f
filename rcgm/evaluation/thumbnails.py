"""Images made small, for measures that have to be quick."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def thumbnails(images: Tensor, limit: int) -> Tensor:
    """Floating images `[N, C, H, W]`, averaged over equal squares so that no side is longer than `limit`."""
    factor = -(-max(images.shape[-2:]) // limit)
    if factor == 1:
        return images
    size = [max(1, side // factor) for side in images.shape[-2:]]
    return functional.interpolate(images, size, mode="area")
