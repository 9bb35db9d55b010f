"""The pipelines of Wan and AnyFlow: UMT5, and Wan's autoencoder of videos."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from rcgm.networks.pipelines.family import PipelineFamily
from rcgm.networks.pipelines.frames import decode_frames, encode_frames

__all__ = ["AnyFlowPipelineFamily", "WanPipelineFamily"]


class WanPipelineFamily(PipelineFamily):
    """Prompts have ``length`` tokens; the padding is zeros, and no mask says where it begins."""

    STOCK: ClassVar[str] = "WanPipeline"
    text_parts: ClassVar[tuple[str, ...]] = ("tokenizer", "text_encoder")
    length: ClassVar[int] = 512
    patch: ClassVar[int] = 2
    video: ClassVar[bool] = True

    def encode_prompts(self, pipeline: Any, prompts: Sequence[str], length: int) -> dict[str, Tensor]:
        text, _ = pipeline.encode_prompt(
            list(prompts),
            do_classifier_free_guidance=False,
            max_sequence_length=length,
            device=pipeline.text_encoder.device,
        )
        return {"text": text}

    def token_counts(self, pipeline: Any, prompts: Sequence[str]) -> list[int]:
        clean = importlib.import_module(type(pipeline).__module__).prompt_clean
        return [len(ids) for ids in pipeline.tokenizer([clean(prompt) for prompt in prompts]).input_ids]

    def factor(self, vae: Any) -> int:
        return vae.config.scale_factor_spatial

    def frame_factor(self, vae: Any) -> int:
        return vae.config.scale_factor_temporal

    def latent_channels(self, vae: Any) -> int:
        return vae.config.z_dim

    def encode_images(self, vae: Any, images: Tensor, generator: torch.Generator | None) -> Tensor:
        return encode_frames(vae, images, generator)

    def decode_latents(self, vae: Any, latents: Tensor) -> Tensor:
        return decode_frames(vae, latents)


class AnyFlowPipelineFamily(WanPipelineFamily):
    """As Wan."""

    STOCK: ClassVar[str] = "AnyFlowPipeline"
