"""Text states of captions, from a small frozen transformer with a tokenizer of its own: nothing is downloaded."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from benchmarks.captioned_digits.scenes import WORDS

__all__ = ["ENCODER", "LENGTH", "WIDTH", "CaptionEncoder", "encode"]

ENCODER = f"{__name__}:encode"
"""The encoder, as a configuration names it."""
LENGTH, WIDTH = 10, 64
"""Tokens of a caption, and features of a token."""


class CaptionEncoder:
    """A transformer with random weights.

    The weights are small: a state is then little more than its word and its place, which a network reads at once. With
    larger ones every word changes all states, and the captions are as hard to read as a cipher.
    """

    def __init__(self) -> None:
        vocabulary = {word: number for number, word in enumerate(("[PAD]", "[UNK]", "[CLS]", *WORDS))}
        tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = WhitespaceSplit()
        self._tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self._model = BertModel(
                BertConfig(
                    vocab_size=len(vocabulary),
                    hidden_size=WIDTH,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    intermediate_size=2 * WIDTH,
                    max_position_embeddings=LENGTH,
                    initializer_range=0.05,
                ),
                add_pooling_layer=False,
            ).eval()

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """``text`` ``[B, LENGTH, WIDTH]`` and ``mask`` ``[B, LENGTH]``; the first token stands for the whole."""
        tokens = self._tokenizer(
            [f"[CLS] {caption}" for caption in captions],
            padding="max_length",
            max_length=LENGTH,
            truncation=True,
            return_tensors="pt",
        )
        mask = tokens["attention_mask"].bool()
        states = self._model(input_ids=tokens["input_ids"], attention_mask=mask).last_hidden_state
        return {"text": states * mask[..., None], "mask": mask}


def encode(captions: Sequence[str]) -> dict[str, Tensor]:
    """See :class:`CaptionEncoder`."""
    return _encoder()(captions)


@functools.cache
def _encoder() -> CaptionEncoder:
    return CaptionEncoder()
