"""What the files of a latent data set offer, whatever their layout."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

FLOATING = ("float16", "bfloat16", "float32")


class Store(Protocol):
    """Stored latents or moments, read one at a time from any process.

    Attributes:
        shape: `[C, H, W]` as stored.
        labels: int64 `[N]`, or None.
        has_flips: whether latents of the mirrored images are stored too.
    """

    shape: tuple[int, int, int]
    labels: Tensor | None
    has_flips: bool

    def __len__(self) -> int: ...

    def read(self, index: int, flipped: bool) -> Tensor:
        """float32 `[C, H, W]` at `index` in `[0, N)`, of the mirrored image where `flipped`."""
        ...

    def describe(self, index: int) -> str:
        """Where the sample at `index` lies, for messages."""
        ...


def require_latents(shape: tuple[int, ...], dtype: str, where: str, *, axes: int = 3) -> tuple[int, int, int]:
    """The shape `[C, H, W]` of latents, once shape and dtype are found to be right.

    Raises:
        ValueError: another number of axes, an empty one, or a dtype that is none of `FLOATING`.
    """
    if len(shape) != axes or 0 in shape:
        needed = "[N, C, H, W]" if axes == 4 else "[C, H, W]"
        raise ValueError(f"{where} must be {needed}, none of them 0, got {list(shape)}")
    if dtype not in FLOATING:
        raise ValueError(f"{where} must be {', '.join(FLOATING)}, got {dtype}")
    return shape[-3:]
