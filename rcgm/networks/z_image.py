"""Z-Image (Cai et al. 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from rcgm.networks.base import PublishedNetwork

if TYPE_CHECKING:
    from rcgm.networks.times import TimeInput

__all__ = ["ZImage"]


class ZImage(PublishedNetwork):
    """Z-Image: latents ``[B, 16, H/8, W/8]``, even height and width; ``text`` and ``mask`` of the prompt.

    Its time runs from noise to data, and its output is the velocity from noise to data.
    """

    STOCK: ClassVar[str] = "ZImageTransformer2DModel"
    block_names: ClassVar[tuple[str, ...]] = ("noise_refiner", "context_refiner", "layers")
    image_block_names: ClassVar[tuple[str, ...] | None] = ("noise_refiner", "layers")
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    conditions: ClassVar[tuple[str, ...]] = ("text", "mask")
    sign: ClassVar[float] = -1.0

    @property
    def time_scale(self) -> float:
        return self.transformer.config.t_scale

    def scaled_time(self, t: Tensor) -> Tensor:
        return (1 - t) * self.time_scale

    def predict(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        # It fills captions up to a multiple of 32 with a learnt token: it has to know where each one ends.
        captions = [_within(text, mask) for text, mask in zip(cond["text"], cond["mask"], strict=True)]
        output = self.transformer(list(x.unsqueeze(2).unbind()), t, captions, return_dict=False)[0]
        return torch.stack(output).squeeze(2)

    def find_times(self) -> list[TimeInput]:
        from rcgm.networks.z_image_times import z_image_time_input  # needs diffusers

        return [z_image_time_input(self.transformer.t_embedder)]


def _within(text: Tensor, mask: Tensor) -> Tensor:
    """The tokens of a caption; all of them on the meta device, where masks have no content."""
    return text if mask.is_meta else text[mask.bool()]
