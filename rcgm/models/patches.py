"""Images to tokens and back: one token for each patch, whose windows may overlap."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import fold, unfold

__all__ = ["PatchEmbedder", "join_patches", "join_windows"]


class PatchEmbedder(nn.Module):
    """Patches to tokens, row by row, by one linear map of the pixels in the order (channel, row, column).

    With ``overlap`` a token is given that many pixels beyond its patch on each side, and zeros beyond the image.
    """

    def __init__(self, in_channels: int, patch_size: int, hidden_size: int, *, overlap: int = 0) -> None:
        super().__init__()
        self.patch_size, self.overlap = patch_size, overlap
        # A matrix product rather than a convolution: by default torch lets convolutions, but not products, round
        # their float32 inputs to TF32. The weight is that of the convolution, flattened.
        self.proj = nn.Linear(in_channels * (patch_size + 2 * overlap) ** 2, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, H W / patch_size^2, hidden_size]`` in the weights' dtype or autocast's."""
        batch, channels, height, width = x.shape
        size = self.patch_size
        if self.overlap:
            window = size + 2 * self.overlap
            tokens = unfold(x, window, stride=size, padding=self.overlap).transpose(1, 2)
        else:
            patches = x.reshape(batch, channels, height // size, size, width // size, size).permute(0, 2, 4, 1, 3, 5)
            tokens = patches.flatten(3).flatten(1, 2)
        return self.proj(tokens.to(self.proj.weight.dtype))


def join_patches(tokens: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Tokens ``[B, T, size size C]``, of pixels in the order (row, column, channel) as DiT has them, to an image.

    Args:
        tokens: row by row.
        grid: rows and columns of patches.
        size: side of a patch.

    Returns:
        ``[B, C, rows size, columns size]``.
    """
    rows, columns = grid
    batch, channels = tokens.shape[0], tokens.shape[2] // size**2
    patches = tokens.reshape(batch, rows, columns, size, size, channels).permute(0, 5, 1, 3, 2, 4)
    # a copy at any patch size: FSDP warns of outputs that are views, and losses want dense samples
    return patches.reshape(batch, channels, rows * size, columns * size).contiguous()


def join_windows(tokens: Tensor, grid: tuple[int, int], size: int, overlap: int) -> Tensor:
    """As :func:`join_patches`, of windows that reach ``overlap`` pixels beyond their patch, in the order (channel, row,
    column): where windows overlap they are added up, and what reaches beyond the image is dropped."""
    height, width = (side * size for side in grid)
    return fold(tokens.transpose(1, 2), (height, width), size + 2 * overlap, stride=size, padding=overlap)
