"""Decoding samples of latents to images."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from rcgm.config import ConfigError
from rcgm.data import DataInfo
from rcgm.models.autoencoders import Autoencoder, load_autoencoder
from rcgm.networks.pipelines import TextPipeline

__all__ = ["Decoder", "to_stored"]

PIXELS = 32 * 256 * 256
"""Of the images that are decoded at a time: an image takes far more memory in a decoder than its latents."""


class Decoder:
    """The decoder of an autoencoder, for samples of a network that was trained on its latents.

    Args:
        path: folder of the autoencoder, see :func:`rcgm.models.autoencoders.load_autoencoder`; of data with captions
            the pipeline that encoded them, see :class:`rcgm.networks.pipelines.TextPipeline`.
        info: of the data that the network was trained on.
        device: to decode on.

    Attributes:
        factor: pixels per latent, in height and width.
        multiple: what height and width of images must be multiples of.

    Raises:
        ConfigError: the data are no latents, or of another number of channels; or there is no such autoencoder.
    """

    def __init__(self, path: str | os.PathLike[str], info: DataInfo, device: torch.device) -> None:
        if info.normalisation is None and info.text is None:
            raise ConfigError(f"decoder must be left out for data that are no latents, got '{path}'")
        try:
            decoder = _loaded(path, info, device)
        except ValueError as error:
            raise ConfigError(f"decoder: {error}") from error
        if decoder.latent_channels != info.shape[0]:
            raise ConfigError(
                f"decoder: '{path}' decodes latents of {decoder.latent_channels} channels, the data have "
                f"{info.shape[0]}: give the autoencoder that they were encoded with"
            )
        self._info = info
        self.factor: int = decoder.factor
        if isinstance(decoder, TextPipeline):
            self.multiple, self._decode = decoder.multiple, decoder.decode_latents
        else:
            self.multiple, self._decode = decoder.factor, decoder.decode

    def __call__(self, samples: Tensor) -> Tensor:
        """Samples ``[N, C, h, w]``, normalised as in training, to images float32 ``[N, channels, H, W]`` in [-1, 1], on
        the CPU."""
        latents = to_stored(samples, self._info)
        pixels = latents.shape[-1] * latents.shape[-2] * self.factor**2
        chunks = latents.split(max(1, PIXELS // pixels))
        return torch.cat([self._decode(chunk).cpu() for chunk in chunks]).clamp_(-1.0, 1.0)


def _loaded(path: str | os.PathLike[str], info: DataInfo, device: torch.device) -> TextPipeline | Autoencoder:
    if info.text is not None:
        return TextPipeline.from_pretrained(info.text.family, path, device=device, parts=("vae",))
    return load_autoencoder(path, device=device)


def to_stored(samples: Tensor, info: DataInfo) -> Tensor:
    """Samples as the data hold them: of latents, the normalisation is undone."""
    return samples if info.normalisation is None else info.normalisation.undo(samples)
