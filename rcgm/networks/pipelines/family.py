"""What the prompts, latents and images of a pipeline's family are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

__all__ = ["PipelineFamily"]


class PipelineFamily(ABC):
    """How a pipeline of diffusers encodes prompts and images, and decodes latents. It holds no weights."""

    STOCK: ClassVar[str]
    """Name of the pipeline's class in diffusers."""
    text_parts: ClassVar[tuple[str, ...]]
    """Components of the pipeline that encode prompts."""
    length: ClassVar[int]
    """Tokens of a prompt, as the pipeline has them by default."""
    patch: ClassVar[int] = 1
    """Side of the transformer's patches, in latents."""
    video: ClassVar[bool] = False
    """Whether images and latents have a dimension of frames, ``[B, C, T, H, W]``."""

    @abstractmethod
    def encode_prompts(self, pipeline: Any, prompts: Sequence[str], length: int) -> dict[str, Tensor]:
        """The condition of the network, of ``length`` tokens, with the leading dimension ``len(prompts)``."""

    def encode_null(self, pipeline: Any, length: int, negative: str = "") -> dict[str, Tensor]:
        """The condition, with leading dimension 1, that the pipeline has for a negative prompt."""
        return self.encode_prompts(pipeline, [negative], length)

    @abstractmethod
    def token_counts(self, pipeline: Any, prompts: Sequence[str]) -> list[int]:
        """How many tokens each prompt takes, of those that :meth:`encode_prompts` is given."""

    def complete(self, pipeline: Any, folder: Path) -> None:  # noqa: B027 - most pipelines are complete
        """Give ``pipeline``, loaded from ``folder``, what else it needs to encode prompts."""

    def factor(self, vae: Any) -> int:
        """Height of an image over that of its latents."""
        return 2 ** (len(vae.config.block_out_channels) - 1)

    def frame_factor(self, vae: Any) -> int:
        """Frames per frame of latents, the first of which stands for one frame; 1 where there are none."""
        return 1

    def latent_channels(self, vae: Any) -> int:
        return vae.config.latent_channels

    def encode_images(self, vae: Any, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Normalised latents: the mean of the posterior, or with ``generator`` a draw from it."""
        posterior = vae.encode(images).latent_dist
        latents = posterior.mode() if generator is None else posterior.sample(generator)
        return (latents - _shift(vae)) * vae.config.scaling_factor

    def decode_latents(self, vae: Any, latents: Tensor) -> Tensor:
        """Images of normalised latents."""
        return vae.decode(latents / vae.config.scaling_factor + _shift(vae)).sample


def _shift(vae: Any) -> float:
    return vae.config.get("shift_factor") or 0.0
