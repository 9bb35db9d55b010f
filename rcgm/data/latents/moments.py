"""Latents that are stored as a Gaussian for each number, and drawn from it when they are read."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from rcgm.checks import one_of

Moments = Literal["none", "log_variance", "std"]
"""What is stored: latents `[C, H, W]`; or `[2C, H, W]`, means, then log variances or standard deviations."""

LOG_VARIANCE_RANGE = (-30.0, 20.0)
"""Log variances are clamped to this, as in the latent diffusion code that the autoencoders were trained with."""


def latent_channels(stored: int, moments: Moments) -> int:
    """Channels of the latents that `stored` channels hold.

    Raises:
        ValueError: no such kind of moments, or an odd number of channels for one of them.
    """
    one_of("moments", moments, get_args(Moments))
    if moments == "none":
        return stored
    if stored % 2:
        raise ValueError(f"moments {moments!r} must have an even number of stored channels, got {stored}")
    return stored // 2


def split_moments(stored: Tensor, moments: Moments) -> tuple[Tensor, Tensor]:
    """Means and standard deviations, each `[..., C, H, W]`, of the stored `[..., 2C, H, W]`.

    Raises:
        ValueError: a standard deviation is negative: the file holds something else.
    """
    mean, spread = stored.chunk(2, dim=-3)
    if moments == "log_variance":
        return mean, spread.clamp(*LOG_VARIANCE_RANGE).mul(0.5).exp()
    if bool((spread < 0).any()):
        raise ValueError(
            "moments is 'std' and the second half of the channels holds negative numbers: they may be log variances "
            "(moments 'log_variance') or latents (moments 'none')"
        )
    return mean, spread


def draw(stored: Tensor, moments: Moments, generator: torch.Generator | None) -> Tensor:
    """Latents `[..., C, H, W]` drawn from what is stored; their means without a generator."""
    if moments == "none":
        return stored
    mean, std = split_moments(stored, moments)
    if generator is None:
        return mean.contiguous()
    return torch.addcmul(mean, std, torch.randn(mean.shape, generator=generator))
