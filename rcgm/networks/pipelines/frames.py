"""Autoencoders of videos, which normalise each channel of their latents by its own mean and deviation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["decode_frames", "encode_frames"]


def encode_frames(vae: Any, frames: Tensor, generator: torch.Generator | None) -> Tensor:
    """Normalised latents ``[B, C, t, h, w]`` of ``[B, 3, T, H, W]``: means of the posterior, or draws from it."""
    posterior = vae.encode(frames).latent_dist
    latents = posterior.mode() if generator is None else posterior.sample(generator)
    mean, deviation = _statistics(vae, latents)
    return (latents - mean) / deviation


def decode_frames(vae: Any, latents: Tensor) -> Tensor:
    """Undo :func:`encode_frames`."""
    mean, deviation = _statistics(vae, latents)
    return vae.decode(latents * deviation + mean).sample


def _statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    values = (vae.config.latents_mean, vae.config.latents_std)
    mean, deviation = (torch.tensor(value).view(1, -1, 1, 1, 1).to(like) for value in values)
    return mean, deviation
