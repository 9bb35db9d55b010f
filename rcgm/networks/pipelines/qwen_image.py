"""Qwen-Image's pipeline: Qwen2.5-VL behind a template, and its own autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from rcgm.networks.pipelines.family import PipelineFamily
from rcgm.networks.pipelines.frames import decode_frames, encode_frames

__all__ = ["QwenImagePipelineFamily"]


class QwenImagePipelineFamily(PipelineFamily):
    """The pipeline pads prompts to the longest of its batch; here all have ``length`` tokens, the padding masked."""

    STOCK: ClassVar[str] = "QwenImagePipeline"
    text_parts: ClassVar[tuple[str, ...]] = ("tokenizer", "text_encoder")
    length: ClassVar[int] = 512
    patch: ClassVar[int] = 2

    def encode_prompts(self, pipeline: Any, prompts: Sequence[str], length: int) -> dict[str, Tensor]:
        text, mask = pipeline.encode_prompt(
            list(prompts), device=pipeline.text_encoder.device, max_sequence_length=length
        )
        if mask is None:  # the pipeline's way to say that nothing is padded
            mask = torch.ones(text.shape[:2], dtype=torch.long, device=text.device)
        missing = length - text.shape[1]
        return {"text": pad(text, (0, 0, 0, missing)), "mask": pad(mask, (0, missing))}

    def token_counts(self, pipeline: Any, prompts: Sequence[str]) -> list[int]:
        texts = [pipeline.prompt_template_encode.format(prompt) for prompt in prompts]
        template = pipeline.prompt_template_encode_start_idx
        return [len(ids) - template for ids in pipeline.tokenizer(texts).input_ids]

    def factor(self, vae: Any) -> int:
        return 2 ** len(vae.temperal_downsample)

    def latent_channels(self, vae: Any) -> int:
        return vae.config.z_dim

    def encode_images(self, vae: Any, images: Tensor, generator: torch.Generator | None) -> Tensor:
        return encode_frames(vae, images.unsqueeze(2), generator).squeeze(2)

    def decode_latents(self, vae: Any, latents: Tensor) -> Tensor:
        return decode_frames(vae, latents.unsqueeze(2)).squeeze(2)
