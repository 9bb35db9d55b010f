"""FLUX.1's pipeline: T5, and the pooled vector of CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from rcgm.networks.pipelines.family import PipelineFamily

__all__ = ["FluxPipelineFamily"]


class FluxPipelineFamily(PipelineFamily):
    """``text`` are T5's states of ``length`` tokens, ``pooled`` is CLIP's vector."""

    STOCK: ClassVar[str] = "FluxPipeline"
    text_parts: ClassVar[tuple[str, ...]] = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")
    length: ClassVar[int] = 512
    patch: ClassVar[int] = 2

    def encode_prompts(self, pipeline: Any, prompts: Sequence[str], length: int) -> dict[str, Tensor]:
        text, pooled, _ = pipeline.encode_prompt(
            list(prompts), device=pipeline.text_encoder.device, max_sequence_length=length
        )
        return {"text": text, "pooled": pooled}

    def token_counts(self, pipeline: Any, prompts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in pipeline.tokenizer_2(list(prompts)).input_ids]
