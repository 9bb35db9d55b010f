"""Wan 2.1 and 2.2, text to video (Wan team 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from rcgm.networks.base import PublishedNetwork

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

__all__ = ["Wan"]


class Wan(PublishedNetwork):
    """Wan: latents of videos ``[B, 16, T, H/8, W/8]``, even height and width; ``text`` of the prompt, padded by zeros.

    Of models with two transformers, one for much noise and one for little, a path to one of the two folders loads it.
    Those that continue an image are refused.
    """

    STOCK: ClassVar[str] = "WanTransformer3DModel"
    block_names: ClassVar[tuple[str, ...]] = ("blocks",)
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")

    def __init__(self, transformer: WanTransformer3DModel, *, interval: str = "embedding") -> None:
        super().__init__(transformer, interval=interval)
        if transformer.config.in_channels != transformer.config.out_channels:
            raise ValueError(
                "transformer must have as many channels in as out, got "
                f"{transformer.config.in_channels} and {transformer.config.out_channels}: take one of text to video"
            )

    def predict(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return self.transformer(
            hidden_states=x, timestep=t * self.time_scale, encoder_hidden_states=cond["text"], return_dict=False
        )[0]
