"""The pipeline of Stable Diffusion 3 and 3.5: two CLIP encoders and T5."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from rcgm.networks.pipelines.family import PipelineFamily
from rcgm.networks.stock import load_transformer

__all__ = ["StableDiffusion3PipelineFamily"]


class StableDiffusion3PipelineFamily(PipelineFamily):
    """``text`` are the states of CLIP (77 tokens, cut there as in the pipeline), then those of T5, ``length`` tokens.

    A pipeline without T5 has zeros in its place, as the stock one.
    """

    STOCK: ClassVar[str] = "StableDiffusion3Pipeline"
    text_parts: ClassVar[tuple[str, ...]] = (
        *("tokenizer", "tokenizer_2", "tokenizer_3"),
        *("text_encoder", "text_encoder_2", "text_encoder_3"),
    )
    length: ClassVar[int] = 256
    patch: ClassVar[int] = 2

    def complete(self, pipeline: Any, folder: Path) -> None:
        if pipeline.text_encoder is not None and pipeline.text_encoder_3 is None:
            # it asks the transformer how wide the zeros are that stand for T5
            with torch.device("meta"):
                pipeline.transformer = load_transformer("SD3Transformer2DModel", folder)

    def encode_prompts(self, pipeline: Any, prompts: Sequence[str], length: int) -> dict[str, Tensor]:
        text, _, pooled, _ = pipeline.encode_prompt(
            list(prompts),
            None,
            None,
            device=pipeline.text_encoder.device,
            do_classifier_free_guidance=False,
            max_sequence_length=length,
        )
        return {"text": text, "pooled": pooled}

    def token_counts(self, pipeline: Any, prompts: Sequence[str]) -> list[int]:
        tokenizer = pipeline.tokenizer if pipeline.tokenizer_3 is None else pipeline.tokenizer_3
        return [len(ids) for ids in tokenizer(list(prompts)).input_ids]
