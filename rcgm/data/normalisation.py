"""Bringing latents to zero mean and unit variance, channel by channel, and back."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

STATISTICS_SUFFIXES = (".json", ".safetensors", ".pt")


@dataclass(frozen=True)
class Normalisation:
    """`x = (z - mean) / std * scale` of latents `z`, as LightningDiT (arXiv 2501.01423) does it.

    The scale factor that an autoencoder is published with is mean 0, std 1 and that scale: 0.18215 for SD-VAE.

    Args:
        mean, std: one number a channel; each std above 0.
        scale: above 0.

    Raises:
        ValueError: an argument outside of the above, or not finite.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(f"mean and std must hold one number a channel, got {len(self.mean)} and {len(self.std)}")
        for name, values in (("mean", self.mean), ("std", self.std), ("scale", (self.scale,))):
            for channel, value in enumerate(values):
                if not math.isfinite(value) or (name != "mean" and value <= 0):
                    needed = "a finite number" if name == "mean" else "a finite number above 0"
                    raise ValueError(f"{name}[{channel}] must be {needed}, got {value}")

    def apply(self, latents: Tensor) -> Tensor:
        """`[..., C, H, W]`, floating, to the same shape, normalised."""
        mean, std = self._columns(latents)
        return (latents - mean) / std * self.scale

    def undo(self, normalised: Tensor) -> Tensor:
        """The latents `[..., C, H, W]` that `apply` makes `normalised` from."""
        mean, std = self._columns(normalised)
        return normalised / self.scale * std + mean

    def _columns(self, like: Tensor) -> tuple[Tensor, Tensor]:
        if like.ndim < 3 or like.shape[-3] != len(self.mean):
            raise ValueError(f"latents must be [..., {len(self.mean)}, H, W], got {list(like.shape)}")
        mean, std = (torch.tensor(values, dtype=like.dtype, device=like.device) for values in (self.mean, self.std))
        return mean[:, None, None], std[:, None, None]


def read_statistics(path: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation by channel, from a file with the keys "mean" and "std".

    .json holds lists of numbers, .safetensors tensors, .pt a dictionary of tensors (LightningDiT's `latents_stats.pt`),
    of which nothing but tensors is loaded. Tensors may have further axes of size 1.

    Raises:
        ValueError: the file is missing, damaged, of another kind, or lacks a key.
    """
    if path.suffix not in STATISTICS_SUFFIXES:
        raise ValueError(f"statistics must end in one of {', '.join(STATISTICS_SUFFIXES)}, got {str(path)!r}")
    if not path.is_file():
        raise ValueError(f"statistics must be a file that exists, got {str(path)!r}")
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
        mean, std = (torch.as_tensor(content[key], dtype=torch.float64) for key in ("mean", "std"))
    # json, safetensors, torch and the look-up of a key each raise their own.
    except Exception as error:
        raise ValueError(f"cannot read the statistics 'mean' and 'std' from {path}: {error!r}") from error
    for name, tensor in (("mean", mean), ("std", std)):
        if max([*tensor.shape, 1]) != tensor.numel():
            raise ValueError(f"{name} in {path} must be one number a channel, got {list(tensor.shape)}")
    return tuple(mean.flatten().tolist()), tuple(std.flatten().tolist())
