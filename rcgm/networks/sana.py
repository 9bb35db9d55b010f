"""SANA (Xie et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from rcgm.networks.base import PublishedNetwork

if TYPE_CHECKING:
    from diffusers import SanaTransformer2DModel

__all__ = ["Sana"]


class Sana(PublishedNetwork):
    """SANA: latents of DC-AE ``[B, 32, H/32, W/32]``; ``text`` and ``mask`` of the caption.

    A network that learnt a variance too (twice the channels) gives its velocity alone. Those with a guidance embedding
    (SANA-Sprint) are few-step models already, and are refused.
    """

    STOCK: ClassVar[str] = "SanaTransformer2DModel"
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")

    def __init__(self, transformer: SanaTransformer2DModel, *, interval: str = "embedding") -> None:
        super().__init__(transformer, interval=interval)
        if transformer.config.guidance_embeds:
            raise ValueError("transformer must have no guidance embedding, got one of SANA-Sprint: take SANA itself")

    @property
    def time_scale(self) -> float:
        return 1000.0 * self.transformer.config.timestep_scale

    def predict(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        output = self.transformer(
            x,
            encoder_hidden_states=cond["text"],
            encoder_attention_mask=cond.get("mask"),
            timestep=t * self.time_scale,
            return_dict=False,
        )[0]
        return output[:, : x.shape[1]]
