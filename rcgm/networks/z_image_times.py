"""Z-Image's own class of time embeddings."""

from __future__ import annotations

import functools

from diffusers.models.transformers.transformer_z_image import TimestepEmbedder
from torch import Tensor

from rcgm.networks.times import GivenSinusoids, Layers, TimeInput

__all__ = ["z_image_time_input"]


class ExactTimestepEmbedder(GivenSinusoids, TimestepEmbedder):
    """It makes the sinusoids itself; what it returns is cast by the network."""

    @property
    def layers(self) -> Layers:
        first, act, last = self.mlp
        return Layers(first, act, last)

    def forward(self, t: Tensor) -> Tensor:
        """``t`` ``[B]``: times, of which only the number counts where exact sinusoids are given."""
        return super().forward(t) if self._given is None else self.embedding_of_given(len(t))


def z_image_time_input(embedding: TimestepEmbedder) -> TimeInput:
    """This embedding, which takes exact times from now on."""
    sinusoids = functools.partial(TimestepEmbedder.timestep_embedding, dim=embedding.frequency_embedding_size)
    embedding.__class__ = ExactTimestepEmbedder
    return TimeInput(sinusoids, embedding)
