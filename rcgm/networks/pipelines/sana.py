"""SANA's pipeline: Gemma-2 behind a long instruction, and DC-AE."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from rcgm.networks.pipelines.family import PipelineFamily

__all__ = ["SanaPipelineFamily"]


class SanaPipelineFamily(PipelineFamily):
    """Prompts stand behind the pipeline's own instruction; negative prompts have none, as in the pipeline.

    DC-AE is deterministic: a generator changes nothing.
    """

    STOCK: ClassVar[str] = "SanaPipeline"
    text_parts: ClassVar[tuple[str, ...]] = ("tokenizer", "text_encoder")
    length: ClassVar[int] = 300

    def encode_prompts(self, pipeline: Any, prompts: Sequence[str], length: int) -> dict[str, Tensor]:
        instruction = inspect.signature(type(pipeline).__call__).parameters["complex_human_instruction"].default
        return _encode(pipeline, prompts, length, instruction)

    def encode_null(self, pipeline: Any, length: int, negative: str = "") -> dict[str, Tensor]:
        return _encode(pipeline, [negative], length, None)

    def token_counts(self, pipeline: Any, prompts: Sequence[str]) -> list[int]:
        prepared = pipeline._text_preprocessing(list(prompts))
        # the first token, and one more that the pipeline leaves between the instruction and the limit
        return [len(ids) + 2 for ids in pipeline.tokenizer(prepared, add_special_tokens=False).input_ids]

    def factor(self, vae: Any) -> int:
        return vae.spatial_compression_ratio

    def encode_images(self, vae: Any, images: Tensor, generator: torch.Generator | None) -> Tensor:
        return vae.encode(images).latent * vae.config.scaling_factor


def _encode(pipeline: Any, prompts: Sequence[str], length: int, instruction: list[str] | None) -> dict[str, Tensor]:
    text, mask, _, _ = pipeline.encode_prompt(
        list(prompts),
        do_classifier_free_guidance=False,
        device=pipeline.text_encoder.device,
        max_sequence_length=length,
        complex_human_instruction=instruction,
    )
    return {"text": text, "mask": mask}
