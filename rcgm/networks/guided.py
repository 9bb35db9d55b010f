"""Networks that are told the scale of guidance in every forward, because they were distilled with it."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from rcgm.networks.base import PublishedNetwork
from rcgm.networks.stock import load_transformer

if TYPE_CHECKING:
    from diffusers import ModelMixin

    from rcgm.networks.times import TimeInput

__all__ = ["GuidedNetwork"]


class GuidedNetwork(PublishedNetwork):
    """A network that may have an embedding of the scale of guidance.

    The scale goes to it in float32, as the times do: bfloat16 makes 3504 of ``1000 * 3.5``, and float16 does not, so
    that forwards in several formats would be of several networks.

    Args:
        guidance: what a network with such an embedding is told; None for the pipeline's default.
    """

    usual_guidance: ClassVar[float]
    """The pipeline's default."""

    def __init__(self, transformer: ModelMixin, *, interval: str = "embedding", guidance: float | None = None) -> None:
        super().__init__(transformer, interval=interval)
        self.guidance = self.usual_guidance if guidance is None else guidance
        self._guidance_input = self.find_guidance() if transformer.config.guidance_embeds else None

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        dtype: str | torch.dtype = "float32",
        interval: str = "embedding",
        quantization: str = "none",
        guidance: float | None = None,
    ) -> GuidedNetwork:
        transformer = load_transformer(cls.STOCK, path, dtype, quantization=quantization)
        return cls(transformer, interval=interval, guidance=guidance)

    @abstractmethod
    def find_guidance(self) -> TimeInput:
        """Where a transformer with ``guidance_embeds`` takes the scale."""

    def guidance_for(self, t: Tensor) -> Tensor | None:
        """The scale for each sample, where the transformer takes one; it counts for its dtype alone."""
        return None if self._guidance_input is None else torch.full_like(t, self.guidance)

    def given_times(self, t: Tensor, r: Tensor) -> Iterator[tuple[TimeInput, Tensor, Tensor | None]]:
        yield from super().given_times(t, r)
        if self._guidance_input is not None:
            yield self._guidance_input, self.guidance_for(t) * 1000.0, None
