"""HunyuanImage's pipeline: Qwen2.5-VL behind a template, ByT5 for quoted words, and its own autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from rcgm.networks.pipelines.family import PipelineFamily

__all__ = ["HunyuanImagePipelineFamily"]


class HunyuanImagePipelineFamily(PipelineFamily):
    """``text`` and ``mask`` are of the prompt, ``text_2`` and ``mask_2`` of the words in it that are quoted."""

    STOCK: ClassVar[str] = "HunyuanImagePipeline"
    text_parts: ClassVar[tuple[str, ...]] = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    length: ClassVar[int] = 1000

    def encode_prompts(self, pipeline: Any, prompts: Sequence[str], length: int) -> dict[str, Tensor]:
        pipeline.tokenizer_max_length = length
        text, mask, text_2, mask_2 = pipeline.encode_prompt(
            list(prompts), device=pipeline.text_encoder.device, batch_size=len(prompts)
        )
        return {"text": text, "mask": mask, "text_2": text_2.to(text.dtype), "mask_2": mask_2}

    def token_counts(self, pipeline: Any, prompts: Sequence[str]) -> list[int]:
        texts = [pipeline.prompt_template_encode.format(prompt) for prompt in prompts]
        template = pipeline.prompt_template_encode_start_idx
        return [len(ids) - template for ids in pipeline.tokenizer(texts).input_ids]

    def factor(self, vae: Any) -> int:
        return vae.config.spatial_compression_ratio
