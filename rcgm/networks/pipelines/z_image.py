"""Z-Image's pipeline: Qwen3 behind its chat template, and FLUX.1's autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from rcgm.networks.pipelines.family import PipelineFamily

__all__ = ["ZImagePipelineFamily"]


class ZImagePipelineFamily(PipelineFamily):
    """The pipeline gives each prompt its own length; here all have ``length`` tokens, the padding masked."""

    STOCK: ClassVar[str] = "ZImagePipeline"
    text_parts: ClassVar[tuple[str, ...]] = ("tokenizer", "text_encoder")
    length: ClassVar[int] = 512
    patch: ClassVar[int] = 2

    def encode_prompts(self, pipeline: Any, prompts: Sequence[str], length: int) -> dict[str, Tensor]:
        states, _ = pipeline.encode_prompt(
            list(prompts),  # which it changes
            device=pipeline.text_encoder.device,
            do_classifier_free_guidance=False,
            max_sequence_length=length,
        )
        text = torch.stack([pad(state, (0, 0, 0, length - len(state))) for state in states])
        lengths = torch.tensor([len(state) for state in states], device=text.device)
        mask = torch.arange(length, device=text.device) < lengths[:, None]
        return {"text": text, "mask": mask.long()}

    def token_counts(self, pipeline: Any, prompts: Sequence[str]) -> list[int]:
        texts = [
            pipeline.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=True
            )
            for prompt in prompts
        ]
        return [len(ids) for ids in pipeline.tokenizer(texts).input_ids]
