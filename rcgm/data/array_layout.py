"""What the axes of an array of samples mean, and whether its numbers can be samples at all."""

from __future__ import annotations

from dataclasses import dataclass

import torch

PIXEL_CHANNELS = (1, 3, 4)
LARGEST_STD, LARGEST_MEAN, SMALLEST_STD = 20.0, 20.0, 0.01
"""Beyond these numbers are taken for unscaled: noise of standard deviation 1 would be nothing beside them, or all."""


@dataclass(frozen=True)
class ArrayLayout:
    """How a row of an array becomes a sample.

    Attributes:
        shape: of a sample: `(D,)` or `(C, H, W)`.
        channels_last: the array is `[N, H, W, C]`.
        without_channels: the array is `[N, H, W]`.
    """

    shape: tuple[int, ...]
    channels_last: bool = False
    without_channels: bool = False

    def arrange(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows `[B, ...]` as they are stored to samples `[B, *shape]`."""
        if self.without_channels:
            return rows.unsqueeze(1)
        return rows.movedim(-1, 1) if self.channels_last else rows


def layout_of(
    where: str, shape: tuple[int, ...], dtype: str, *, pixels: bool, channels_last: bool | None
) -> ArrayLayout:
    """The layout of an array.

    Args:
        where: the array is from, for messages.
        shape, dtype: of the array.
        pixels: whether it holds pixels, of which `[N, H, W]` has one channel.
        channels_last: None: no, but an array that looks so is refused.

    Raises:
        ValueError: a shape or dtype that is no array of samples.
    """
    if dtype != "uint8" and not dtype.startswith(("float", "bfloat")):
        raise ValueError(f"samples must be uint8 or floating, got {dtype} in {where}: convert them")
    kinds = {2: "[N, D]", 3: "[N, H, W]", 4: "[N, H, W, C]" if channels_last else "[N, C, H, W]"}
    axes = [4] if channels_last else [3, 4] if pixels else [2, 4]
    if len(shape) not in axes or 0 in shape:
        hint = ": of pixels, set value_range" if len(shape) == 3 and not pixels else ""
        needed = " or ".join(kinds[number] for number in axes)
        raise ValueError(f"samples must be {needed}, none of them 0, got {dtype} {list(shape)} in {where}{hint}")
    if len(shape) == 2:
        return ArrayLayout(shape[1:])
    if len(shape) == 3:
        return ArrayLayout((1, *shape[1:]), without_channels=True)
    channel_axis, other_axis = (3, 1) if channels_last else (1, 3)
    if pixels and shape[channel_axis] not in PIXEL_CHANNELS:
        hint = ""
        if shape[other_axis] in PIXEL_CHANNELS:
            hint = f": set channels_last={not channels_last} if axis {other_axis} holds the channels"
        raise ValueError(
            f"pixels must have 1, 3 or 4 channels, got {list(shape)} in {where}, with {shape[channel_axis]} on axis "
            f"{channel_axis}{hint}"
        )
    if channels_last is None and _looks_channels_last(shape):
        raise ValueError(
            f"samples must be [N, C, H, W], got {list(shape)} in {where}, which looks like [N, H, W, C]: set "
            "channels_last=True, or False if axis 1 holds the channels all the same"
        )
    return ArrayLayout((shape[3], shape[1], shape[2]), channels_last=True) if channels_last else ArrayLayout(shape[1:])


def check_scale(where: str, samples: torch.Tensor) -> None:
    """Refuse floating `samples` `[B, ...]` that are far from unit scale; numbers that are not finite are passed over.

    Raises:
        ValueError: their mean or standard deviation is implausible, or they look like pixels of 0 to 255.
    """
    values = samples[torch.isfinite(samples)].double()
    if not len(values):
        return
    low, high, mean, std = (
        float(value) for value in (values.min(), values.max(), values.mean(), values.std(correction=0))
    )
    images_of_bytes = samples.ndim > 2 and low >= 0 and high > LARGEST_STD
    if SMALLEST_STD <= std <= LARGEST_STD and abs(mean) <= LARGEST_MEAN and not images_of_bytes:
        return
    raise ValueError(
        f"samples must have a mean near 0 and a standard deviation near 1, got values from {low:.4g} to {high:.4g}, "
        f"mean {mean:.4g}, standard deviation {std:.4g} in {where}: of pixels set value_range (such as [0, 255]), "
        "otherwise subtract the mean and divide by the standard deviation"
    )


def _looks_channels_last(shape: tuple[int, ...]) -> bool:
    _, channels, height, width = shape
    if width not in PIXEL_CHANNELS or channels in PIXEL_CHANNELS or height <= width:
        return False
    return width != 4 or channels == height  # [C, H, 4] can be narrow latents
