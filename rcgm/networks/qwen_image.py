"""Qwen-Image (Wu et al. 2025)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from rcgm.networks.base import PublishedNetwork
from rcgm.networks.packing import packed, unpacked

__all__ = ["QwenImage"]


class QwenImage(PublishedNetwork):
    """Qwen-Image: latents ``[B, 16, H/8, W/8]``, even height and width; ``text`` and ``mask`` of the prompt."""

    STOCK: ClassVar[str] = "QwenImageTransformer2DModel"
    lora_targets: ClassVar[tuple[str, ...]] = (
        *("to_q", "to_k", "to_v", "to_out.0"),
        *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    )

    def predict(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        height, width = x.shape[-2:]
        tokens = self.transformer(
            hidden_states=packed(x),
            timestep=t,
            encoder_hidden_states=cond["text"],
            encoder_hidden_states_mask=cond.get("mask"),
            img_shapes=[[(1, height // 2, width // 2)]] * x.shape[0],
            return_dict=False,
        )[0]
        return unpacked(tokens, height, width)
