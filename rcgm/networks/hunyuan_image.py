"""HunyuanImage 2.1 (Tencent 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from rcgm.networks.guided import GuidedNetwork

if TYPE_CHECKING:
    from rcgm.networks.times import TimeInput

__all__ = ["HunyuanImage"]


class HunyuanImage(GuidedNetwork):
    """HunyuanImage: latents ``[B, 64, H/32, W/32]``; ``text`` and ``mask`` of the prompt.

    ``text_2`` and ``mask_2`` of quoted words may stand beside them. Distilled networks have an embedding of ``r``
    (``use_meanflow``), which is used as it is, and another of the scale of guidance.
    """

    STOCK: ClassVar[str] = "HunyuanImageTransformer2DModel"
    block_names: ClassVar[tuple[str, ...]] = ("transformer_blocks", "single_transformer_blocks")
    image_output: ClassVar[int] = 0
    conditions: ClassVar[tuple[str, ...]] = ("text", "mask")
    lora_targets: ClassVar[tuple[str, ...]] = (
        *("to_q", "to_k", "to_v", "to_out.0"),
        *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    )

    usual_guidance: ClassVar[float] = 3.25

    def predict(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        config = self.transformer.config
        time = (t * self.time_scale).to(x.dtype)  # the dtype in which the network goes on
        return self.transformer(
            hidden_states=x,
            timestep=time,
            timestep_r=time if config.use_meanflow else None,
            encoder_hidden_states=cond["text"],
            encoder_attention_mask=cond["mask"],
            encoder_hidden_states_2=cond.get("text_2"),
            encoder_attention_mask_2=cond.get("mask_2"),
            guidance=self.guidance_for(t),
            return_dict=False,
        )[0]

    def find_times(self) -> list[TimeInput]:
        from rcgm.networks.times import time_input  # needs diffusers

        places = (self.transformer.time_guidance_embed, self.transformer.context_embedder.time_text_embed)
        return [time_input(place.time_proj, place.timestep_embedder) for place in places]

    def find_interval(self) -> TimeInput | None:
        from rcgm.networks.times import time_input  # needs diffusers

        place = self.transformer.time_guidance_embed
        return time_input(place.time_proj_r, place.timestep_embedder_r) if place.use_meanflow else None

    def find_guidance(self) -> TimeInput:
        from rcgm.networks.times import time_input  # needs diffusers

        place = self.transformer.time_guidance_embed
        return time_input(place.time_proj, place.guidance_embedder)
