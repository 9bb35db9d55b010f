"""Encoded images: their layouts on disk, and the data set that reads them."""

from rcgm.data.latents.dataset import Latents

__all__ = ["Latents"]
