"""Video autoencoders that normalise each channel of their latents by its own mean and deviation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rcgm.networks.pipelines.family import PipelineFamily

__all__ = ["PerChannelFamily"]


class PerChannelFamily(PipelineFamily):
    """Images are videos of one frame to these autoencoders."""

    def factor(self, vae: Any) -> int:
        return 2 ** len(vae.temperal_downsample)

    def latent_channels(self, vae: Any) -> int:
        return vae.config.z_dim

    def encode_images(self, vae: Any, images: Tensor, generator: torch.Generator | None) -> Tensor:
        posterior = vae.encode(images.unsqueeze(2)).latent_dist
        latents = posterior.mode() if generator is None else posterior.sample(generator)
        mean, deviation = _statistics(vae, latents)
        return ((latents - mean) / deviation).squeeze(2)

    def decode_latents(self, vae: Any, latents: Tensor) -> Tensor:
        latents = latents.unsqueeze(2)
        mean, deviation = _statistics(vae, latents)
        return vae.decode(latents * deviation + mean).sample.squeeze(2)


def _statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, to go with latents ``[B, C, T, H, W]``."""
    values = (vae.config.latents_mean, vae.config.latents_std)
    mean, deviation = (torch.tensor(value).view(1, -1, 1, 1, 1).to(like) for value in values)
    return mean, deviation
