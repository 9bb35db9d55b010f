"""Autoencoders in the layout of diffusers: what turns images into latents, and samples back into images."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.files import sha256_of

__all__ = ["Autoencoder", "load_autoencoder"]

CLASSES = ("AutoencoderKL", "AutoencoderDC")
"""SD-VAE, VA-VAE and their like; DC-AE."""


class Autoencoder:
    """A frozen autoencoder of images in [-1, 1].

    Attributes:
        path: where it was loaded from.
        kind: name of its class in diffusers.
        config: its configuration.
        in_channels: of images.
        latent_channels: of latents.
        factor: height of an image over that of its latents.
        has_moments: whether it encodes to a Gaussian (AutoencoderKL) rather than to latents (AutoencoderDC).
    """

    def __init__(self, path: Path, kind: str, config: dict[str, Any], network: nn.Module) -> None:
        self.path = path
        self.kind = kind
        self.config = config
        self._network = network
        self.in_channels: int = config["in_channels"]
        self.latent_channels: int = config["latent_channels"]
        self.has_moments = kind == "AutoencoderKL"
        if self.has_moments:
            self.factor = 2 ** (len(config["block_out_channels"]) - 1)
        else:
            self.factor = network.spatial_compression_ratio

    @property
    def device(self) -> torch.device:
        return next(self._network.parameters()).device

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images `[B, in_channels, H, W]` on any device to float32: means and log variances `[B, 2C, h, w]` where
        `has_moments`, else latents `[B, C, h, w]`; neither shifted nor scaled.

        Raises:
            ValueError: images of another number of channels, or whose sides are no multiples of `factor`.
        """
        if images.ndim != 4 or images.shape[1] != self.in_channels or any(s % self.factor for s in images.shape[2:]):
            raise ValueError(
                f"images have shape {list(images.shape)}; {self.path} needs [B, {self.in_channels}, H, W], "
                f"H and W multiples of {self.factor}"
            )
        encoded = self._network.encode(self._moved(images))
        return (encoded.latent_dist.parameters if self.has_moments else encoded.latent).float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents `[B, C, h, w]`, as `encode` gives them, to float32 images `[B, in_channels, H, W]` of about [-1, 1].

        Raises:
            ValueError: latents of another number of channels.
        """
        if latents.ndim != 4 or latents.shape[1] != self.latent_channels:
            raise ValueError(
                f"latents have shape {list(latents.shape)}; {self.path} needs [B, {self.latent_channels}, h, w]"
            )
        return self._network.decode(self._moved(latents)).sample.float()

    def weights_hash(self) -> str:
        """SHA-256 over the weight files on disk."""
        files = sorted(self.path.glob("*.safetensors"))
        return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()

    def _moved(self, tensor: Tensor) -> Tensor:
        parameter = next(self._network.parameters())
        return tensor.to(parameter.device, parameter.dtype)


def load_autoencoder(
    path: str | os.PathLike[str], *, device: torch.device, dtype: torch.dtype = torch.float32
) -> Autoencoder:
    """Load an AutoencoderKL or AutoencoderDC from a folder with a config.json and safetensors weights.

    Nothing is fetched, and no pickled weights are read.

    Raises:
        ValueError: no such folder, or one of another layout or class, or with damaged weights.
        ModuleNotFoundError: diffusers is not installed.
    """
    folder = Path(path)
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"autoencoder must be a folder with a config.json and *.safetensors, got {str(path)!r}")
    if not list(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} holds no *.safetensors; pickled weights are not read, convert them first")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        kind = config["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"cannot read the class of the autoencoder from {file}: {error!r}") from error
    if kind not in CLASSES:
        raise ValueError(f"{file} must be of one of {', '.join(CLASSES)}, got {kind!r}")
    import diffusers  # takes seconds

    try:
        network = getattr(diffusers, kind).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False, torch_dtype=dtype
        )
    # diffusers, safetensors and torch each raise their own for weights that are damaged or do not fit.
    except Exception as error:
        raise ValueError(f"cannot load the {kind} in {folder}: {error}") from error
    network = network.to(device).requires_grad_(False).eval()
    config = {name: value for name, value in network.config.items() if not name.startswith("_")}
    return Autoencoder(folder, kind, config, network)
