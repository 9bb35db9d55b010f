"""Prompts that samples are drawn for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rcgm.checks import whole_number
from rcgm.data.text.layout import check_conditions
from rcgm.networks.pipelines import TextPipeline

__all__ = ["STRIDE", "PromptCaptions"]

STRIDE = 2**20
"""Largest number of samples of a prompt: the noise of sample ``k`` of prompt ``p`` has the key ``p * STRIDE + k``."""


class PromptCaptions:
    """Prompts, each with the same number of samples: those of the first prompt are the first samples.

    All prompts are encoded here, and the results kept on the CPU: the encoder can be freed before samples are drawn.

    The noise of a sample depends on the seed, the number of its prompt and its number among the samples of that prompt.
    So a sample depends neither on how many prompts there are nor on how many samples each has.

    Args:
        encoder: pipeline with its text encoders; or a function that makes the conditions ``[B, ...]`` of B captions,
            the one that the data of the run were encoded with.
        prompts: at least one, none of them blank.
        each: samples of a prompt, 1 to ``STRIDE``.
        negative: prompt that guidance leads away from; the empty one stands for no prompt.
        numbers: of the prompts, from 0 on, where these are some of many; None for 0, 1, ...
        batch_size: prompts that are encoded at a time.
        on_batch: called with the number of prompts that have been encoded since its last call.

    Attributes:
        null: the conditions of ``negative``, with a leading dimension of 1.
        cut: prompts that are longer than the text encoders take, of which they see the beginning. Of a function it is
            not known.

    Raises:
        TypeError: ``prompts`` is one string, or an encoder gives no tensors.
        ValueError: an argument outside of the above, or an encoder gives other conditions than the layout has.
    """

    def __init__(
        self,
        encoder: TextPipeline | Callable[[list[str]], dict[str, Tensor]],
        prompts: Sequence[str],
        *,
        each: int = 1,
        negative: str = "",
        numbers: Sequence[int] | None = None,
        batch_size: int = 32,
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        if isinstance(prompts, str):
            raise TypeError(f"prompts must be a sequence of strings, got the string {prompts!r}: put it in a list")
        self._prompts = list(prompts)
        self._numbers = list(range(len(self._prompts)) if numbers is None else numbers)
        self._each = whole_number("each", each)
        whole_number("batch_size", batch_size)
        if each > STRIDE:
            raise ValueError(f"each must be at most {STRIDE}, got {each}")
        if not self._prompts or not all(prompt.strip() for prompt in self._prompts):
            raise ValueError(f"prompts must be one or more, none of them blank, got {self._prompts!r}")
        if len(self._numbers) != len(self._prompts):
            raise ValueError(f"numbers must be {len(self._prompts)}, one a prompt, got {len(self._numbers)}")
        for number in self._numbers:
            whole_number("each number of numbers", number, 0)
        # a prompt that is given more than once is encoded once
        distinct = list(dict.fromkeys(self._prompts))
        self._row = {prompt: row for row, prompt in enumerate(distinct)}
        pipeline = encoder if isinstance(encoder, TextPipeline) else None
        encode = encoder if pipeline is None else pipeline.encode_prompts
        parts = []
        for start in range(0, len(distinct), batch_size):
            batch = distinct[start : start + batch_size]
            parts.append(_checked(encode(batch), len(batch)))
            if on_batch is not None:
                on_batch(len(batch))
        self._conditions = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        null = encode([negative]) if pipeline is None else pipeline.encode_null(negative)
        self.null = {name: _as_data(tensor) for name, tensor in _checked(null, 1).items()}
        too_long = [False] * len(distinct) if pipeline is None else pipeline.too_long(distinct)
        self.cut = [prompt for prompt, long in zip(distinct, too_long, strict=True) if long]

    def __len__(self) -> int:
        return len(self._prompts) * self._each

    def texts(self, rows: range) -> list[str]:
        return [self._prompts[self._place(row)[0]] for row in rows]

    def condition(self, rows: range) -> dict[str, Tensor]:
        picked = torch.tensor([self._row[text] for text in self.texts(rows)])
        return {name: _as_data(tensor[picked]) for name, tensor in self._conditions.items()}

    def noise_keys(self, rows: range) -> list[int]:
        places = [self._place(row) for row in rows]
        return [self._numbers[prompt] * STRIDE + sample for prompt, sample in places]

    def _place(self, row: int) -> tuple[int, int]:
        """The place of the prompt of a sample, and the number of the sample among those of this prompt."""
        if not 0 <= row < len(self):
            raise ValueError(
                f"samples must be from 0 to {len(self) - 1}, got {row}: give more prompts or a larger each"
            )
        return divmod(row, self._each)


def _checked(cond: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Conditions on the CPU, in the dtype of the encoder, which may take half the memory of float32."""
    where = "the result of the encoder of prompts"
    if not isinstance(cond, dict):
        raise TypeError(f"{where} must be a dict of tensors, got {type(cond).__name__}")
    check_conditions(cond, rows, where)
    return {name: tensor.detach().cpu() for name, tensor in cond.items()}


def _as_data(tensor: Tensor) -> Tensor:
    """In the formats of data sets of encoded pairs."""
    return tensor.float() if tensor.is_floating_point() else tensor.bool()
