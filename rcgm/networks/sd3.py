"""Stable Diffusion 3 and 3.5 (Esser et al. 2024)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from rcgm.networks.base import PublishedNetwork

__all__ = ["StableDiffusion3"]


class StableDiffusion3(PublishedNetwork):
    """Latents ``[B, 16, H/8, W/8]``; ``text``, the states of all encoders, and ``pooled`` ``[B, C]``."""

    STOCK: ClassVar[str] = "SD3Transformer2DModel"
    conditions: ClassVar[tuple[str, ...]] = ("text", "pooled")
    lora_targets: ClassVar[tuple[str, ...]] = (
        *("to_q", "to_k", "to_v", "to_out.0"),
        *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    )

    def predict(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return self.transformer(
            hidden_states=x,
            timestep=t * self.time_scale,
            encoder_hidden_states=cond["text"],
            pooled_projections=cond["pooled"],
            return_dict=False,
        )[0]
