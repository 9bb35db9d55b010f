"""Exact times and the interval, beside the time embedding that a published network has.

A transformer of diffusers makes its time vector by ``Timesteps``, sinusoids of the time, and ``TimestepEmbedding``, two
linear layers. Some cast the time to the dtype of the hidden states before the sinusoids, all cast the sinusoids. In
bfloat16 times have steps of 2^-8 in [0.5, 1): a gap of 0.01 becomes 0.0078 or 0.0117. So the sinusoids are made here,
from float32 times, and go around the network's own path; the linear layers run in float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn
from torch.nn.functional import linear

from rcgm.models.precision import leaving_autocast

__all__ = [
    "ExactTimeEmbedding",
    "GivenSinusoids",
    "IntervalEmbedding",
    "Layers",
    "TimeInput",
    "time_input",
    "time_inputs",
]

EMBEDDINGS = ("timestep_embedder", "time_embedder")
"""Names of the time embedding in the classes of diffusers, beside ``time_proj`` or ``timesteps_proj``."""
SINUSOIDS = ("time_proj", "timesteps_proj")


class Layers(NamedTuple):
    """The two linear layers of a time embedding, and the functions after each."""

    first: nn.Linear
    act: Callable[[Tensor], Tensor]
    last: nn.Linear
    post_act: Callable[[Tensor], Tensor] | None = None

    def __call__(self, sinusoids: Tensor) -> Tensor:
        """Embedding of ``sinusoids`` ``[B, C]`` in float32, whatever the dtype of the weights and autocast."""
        with leaving_autocast(sinusoids.device):
            hidden = self.act(linear(sinusoids, self.first.weight.float(), _float(self.first.bias)))
            embedding = linear(hidden, self.last.weight.float(), _float(self.last.bias))
            return embedding if self.post_act is None else self.post_act(embedding)


class GivenSinusoids:
    """A time embedding that takes its sinusoids from outside while :meth:`given` lasts.

    The class of an embedding that is there already is set to a subclass of this one and its own class, so that its
    parameters keep their names and values.
    """

    layers: Layers
    """The embedding's own; a subclass says which. (An abstract class could not become the class of what is there.)"""
    _given: tuple[Tensor, Tensor | None] | None = None

    @contextlib.contextmanager
    def given(self, sinusoids: Tensor, added: Tensor | None) -> Iterator[None]:
        """Use ``sinusoids`` ``[B, C]``, float32, and add ``added`` ``[B, D]`` to the embedding."""
        self._given = (sinusoids, added)
        try:
            yield
        finally:
            self._given = None

    def embedding_of_given(self, rows: int, further: Tensor | None = None) -> Tensor:
        """float32 ``[rows, D]``: each row repeated where a network asks for one embedding per frame of a video."""
        sinusoids, added = self._given
        embedding = self.layers(sinusoids if further is None else sinusoids + further)
        if added is not None:
            embedding = embedding + added
        return embedding if rows == len(embedding) else embedding.repeat_interleave(rows // len(embedding), dim=0)


class ExactTimeEmbedding(GivenSinusoids, TimestepEmbedding):
    """What it returns has the dtype that the network asked for."""

    @property
    def layers(self) -> Layers:
        return Layers(self.linear_1, self.act, self.linear_2, self.post_act)

    def forward(self, sample: Tensor, condition: Tensor | None = None) -> Tensor:
        """``sample`` ``[B, C]``: rounded sinusoids, of which only rows and dtype count where exact ones are given."""
        if self._given is None:
            return super().forward(sample, condition)
        further = None if condition is None else self.cond_proj(condition).float()
        return self.embedding_of_given(len(sample), further).to(sample.dtype)


class IntervalEmbedding(nn.Module):
    """Embedding of the interval ``t - r``, float32, of the shape of the network's time embedding; 0 at first.

    Its first layer starts as a copy of the network's, its last at 0: so the network is the published one for every
    ``r`` until the first step.
    """

    def __init__(self, like: Layers) -> None:
        super().__init__()
        first, last = like.first, like.last
        options = {"device": first.weight.device, "dtype": torch.float32}
        self.linear_1 = nn.Linear(first.in_features, first.out_features, first.bias is not None, **options)
        self.linear_2 = nn.Linear(last.in_features, last.out_features, last.bias is not None, **options)
        self.act, self.post_act = like.act, like.post_act
        with torch.no_grad():
            for own, theirs in zip(self.linear_1.parameters(), first.parameters(), strict=True):
                own.copy_(theirs)
            for parameter in self.linear_2.parameters():
                parameter.zero_()

    def forward(self, sinusoids: Tensor) -> Tensor:
        """Sinusoids of the interval, float32 ``[B, C]``, to ``[B, D]``."""
        return Layers(self.linear_1, self.act, self.linear_2, self.post_act)(sinusoids)


class TimeInput(NamedTuple):
    """Where a network takes a time: its sinusoids of scaled times, and its embedding, which takes exact ones."""

    sinusoids: Callable[[Tensor], Tensor]
    embedding: GivenSinusoids

    def features(self, scaled: Tensor) -> Tensor:
        """Sinusoids, float32 ``[B, C]``, of times ``[B]`` to which the network's scale is applied already."""
        return self.sinusoids((scaled / getattr(self.sinusoids, "scale", 1)).float())


def time_inputs(network: nn.Module) -> list[TimeInput]:
    """The one place where ``network`` takes its time. It takes exact times from now on.

    Raises:
        ValueError: there is no such place, or more than one.
    """
    found = [
        (sinusoids, embedding)
        for module in network.modules()
        for sinusoids in _named(module, SINUSOIDS, Timesteps)
        for embedding in _named(module, EMBEDDINGS, TimestepEmbedding)
    ]
    if len(found) != 1:
        raise ValueError(
            "network must have one time embedding, a Timesteps beside a TimestepEmbedding, got "
            f"{len(found)} in {type(network).__name__}: write a file for its family in rcgm/networks"
        )
    return [time_input(*found[0])]


def time_input(sinusoids: Timesteps, embedding: TimestepEmbedding) -> TimeInput:
    """This embedding of these sinusoids, which takes exact times from now on."""
    embedding.__class__ = ExactTimeEmbedding
    return TimeInput(sinusoids, embedding)


def _named(module: nn.Module, names: tuple[str, ...], kind: type[nn.Module]) -> list[nn.Module]:
    return [getattr(module, name) for name in names if isinstance(getattr(module, name, None), kind)]


def _float(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.float()
