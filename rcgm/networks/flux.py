"""FLUX.1 (Black Forest Labs 2024)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from rcgm.networks.base import PublishedNetwork
from rcgm.networks.packing import packed, unpacked
from rcgm.networks.stock import load_transformer

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

__all__ = ["Flux"]


class Flux(PublishedNetwork):
    """FLUX.1: latents ``[B, 16, H/8, W/8]``, even height and width; ``text`` of T5 and ``pooled`` ``[B, C]`` of CLIP.

    Args:
        guidance: what a network with a guidance embedding (FLUX.1-dev) is told; others take none.
    """

    STOCK: ClassVar[str] = "FluxTransformer2DModel"
    block_names: ClassVar[tuple[str, ...]] = ("transformer_blocks", "single_transformer_blocks")
    conditions: ClassVar[tuple[str, ...]] = ("text", "pooled")
    lora_targets: ClassVar[tuple[str, ...]] = (
        *("to_q", "to_k", "to_v", "to_out.0"),
        *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    )

    def __init__(
        self, transformer: FluxTransformer2DModel, *, interval: str = "embedding", guidance: float = 3.5
    ) -> None:
        super().__init__(transformer, interval=interval)
        self.guidance = guidance

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        dtype: str | torch.dtype = "float32",
        interval: str = "embedding",
        quantization: str = "none",
        guidance: float = 3.5,
    ) -> Flux:
        transformer = load_transformer(cls.STOCK, path, dtype, quantization=quantization)
        return cls(transformer, interval=interval, guidance=guidance)

    def predict(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        height, width = x.shape[-2:]
        guided = self.transformer.config.guidance_embeds
        tokens = self.transformer(
            hidden_states=packed(x),
            timestep=t,
            guidance=t.new_full(t.shape, self.guidance) if guided else None,
            pooled_projections=cond["pooled"],
            encoder_hidden_states=cond["text"],
            txt_ids=x.new_zeros(cond["text"].shape[1], 3),
            img_ids=_positions(height // 2, width // 2, x),
            return_dict=False,
        )[0]
        return unpacked(tokens, height, width)


def _positions(rows: int, columns: int, like: Tensor) -> Tensor:
    """Row and column of each token, ``[rows * columns, 3]``; the first number is 0."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).reshape(-1, 3).to(like)
