"""Published text-to-image networks of the real classes, tiny and with random weights, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import (
    AnyFlowTransformer3DModel,
    FluxTransformer2DModel,
    HunyuanImageTransformer2DModel,
    ModelMixin,
    QwenImageTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    WanTransformer3DModel,
    ZImageTransformer2DModel,
)
from torch import Tensor

WORDS = 6


@dataclass(frozen=True)
class Family:
    """A tiny network: the one of diffusers, the shape of its latents without the batch, and a condition.

    ``own_interval``: it has an embedding of ``r`` of its own.
    """

    stock: Callable[[], ModelMixin]
    latents: tuple[int, ...]
    text: int
    pooled: int | None = None
    masked: bool = False
    own_interval: bool = False

    def build(self, seed: int = 0) -> ModelMixin:
        """The network of diffusers; layers that published networks begin with at 0 are drawn too."""
        torch.manual_seed(seed)
        network = self.stock().eval()
        for parameter in network.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
        return network

    def cond(self, batch: int, seed: int = 1) -> dict[str, Tensor]:
        """Text states of other lengths in each sample, where the family has masks."""
        generator = torch.Generator().manual_seed(seed)
        cond = {"text": torch.randn(batch, WORDS, self.text, generator=generator)}
        if self.pooled is not None:
            cond["pooled"] = torch.randn(batch, self.pooled, generator=generator)
        if self.masked:
            lengths = WORDS - torch.arange(batch) % 3
            cond["mask"] = (torch.arange(WORDS)[None] < lengths[:, None]).long()
        return cond


VIDEO = {
    "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 12,
    "freq_dim": 16, "ffn_dim": 16, "num_layers": 2, "rope_max_seq_len": 32,
}  # fmt: skip


def hunyuan_image(**options) -> Family:
    """As it is trained first; with ``use_meanflow=True`` as it is distilled."""
    return Family(
        lambda: HunyuanImageTransformer2DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1,
            num_single_layers=1, num_refiner_layers=1, text_embed_dim=12, text_embed_2_dim=10,
            rope_axes_dim=(8, 8), **options,
        ),
        (4, 8, 6), 12, masked=True, own_interval=options.get("use_meanflow", False),
    )  # fmt: skip


FAMILIES = {
    "sana": Family(
        lambda: SanaTransformer2DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=4, num_layers=2,
            num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=10,
            sample_size=8,
        ),
        (4, 8, 6), 10, masked=True,
    ),
    "sd3": Family(
        lambda: SD3Transformer2DModel(
            sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
            num_attention_heads=2, caption_projection_dim=16, joint_attention_dim=12, pooled_projection_dim=10,
            pos_embed_max_size=16,
        ),
        (4, 8, 6), 12, pooled=10,
    ),
    "qwen_image": Family(
        lambda: QwenImageTransformer2DModel(
            in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=12, axes_dims_rope=(8, 4, 4),
        ),
        (4, 8, 6), 12, masked=True,
    ),
    "flux": Family(
        lambda: FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=12, pooled_projection_dim=10, axes_dims_rope=(8, 4, 4), guidance_embeds=True,
        ),
        (4, 8, 6), 12, pooled=10,
    ),
    "z_image": Family(
        lambda: ZImageTransformer2DModel(
            in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=12,
            axes_dims=[8, 4, 4], axes_lens=[1024, 32, 32],
        ),
        (4, 8, 6), 12, masked=True,
    ),
    "wan": Family(lambda: WanTransformer3DModel(**VIDEO), (4, 3, 8, 6), 12),
    "hunyuan_image": hunyuan_image(),
    "anyflow": Family(lambda: AnyFlowTransformer3DModel(**VIDEO), (4, 3, 8, 6), 12, own_interval=True),
}  # fmt: skip
