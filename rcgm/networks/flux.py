"""FLUX.1 (Black Forest Labs 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from rcgm.networks.guided import GuidedNetwork
from rcgm.networks.packing import packed, unpacked

if TYPE_CHECKING:
    from rcgm.networks.times import TimeInput

__all__ = ["Flux"]


class Flux(GuidedNetwork):
    """FLUX.1: latents ``[B, 16, H/8, W/8]``, even height and width; ``text`` of T5 and ``pooled`` ``[B, C]`` of CLIP.

    FLUX.1-dev has an embedding of the scale of guidance.
    """

    STOCK: ClassVar[str] = "FluxTransformer2DModel"
    block_names: ClassVar[tuple[str, ...]] = ("transformer_blocks", "single_transformer_blocks")
    conditions: ClassVar[tuple[str, ...]] = ("text", "pooled")
    lora_targets: ClassVar[tuple[str, ...]] = (
        *("to_q", "to_k", "to_v", "to_out.0"),
        *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    )

    usual_guidance: ClassVar[float] = 3.5

    def find_guidance(self) -> TimeInput:
        from rcgm.networks.times import time_input  # needs diffusers

        place = self.transformer.time_text_embed
        return time_input(place.time_proj, place.guidance_embedder)

    def predict(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        height, width = x.shape[-2:]
        tokens = self.transformer(
            hidden_states=packed(x),
            timestep=t,
            guidance=self.guidance_for(t),
            pooled_projections=cond["pooled"],
            encoder_hidden_states=cond["text"],
            txt_ids=torch.zeros(cond["text"].shape[1], 3, device=x.device),
            img_ids=_positions(height // 2, width // 2, x.device),
            return_dict=False,
        )[0]
        return unpacked(tokens, height, width)


def _positions(rows: int, columns: int, device: torch.device) -> Tensor:
    """Row and column of each token, ``[rows * columns, 3]``, after a 0. bfloat16 would round numbers over 256."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).reshape(-1, 3).to(device, torch.float32)
