"""Exact times and the interval, beside the time embedding that a published network has.

A transformer of diffusers makes its time vector by ``Timesteps``, sinusoids of the time, and ``TimestepEmbedding``, two
linear layers. Some cast the time to the dtype of the hidden states before the sinusoids, all cast the sinusoids. In
bfloat16 times have steps of 2^-8 in [0.5, 1): a gap of 0.01 becomes 0.0078 or 0.0117. So the sinusoids are made here,
from float32 times, and go around the network's own path; the linear layers run in float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn
from torch.nn.functional import linear

__all__ = ["ExactTimeEmbedding", "IntervalEmbedding", "time_inputs"]

EMBEDDINGS = ("timestep_embedder", "time_embedder")
"""Names of the time embedding in the classes of diffusers, beside ``time_proj`` or ``timesteps_proj``."""
SINUSOIDS = ("time_proj", "timesteps_proj")


class ExactTimeEmbedding(TimestepEmbedding):
    """The network's own time embedding, of sinusoids that are given from outside while :meth:`given` lasts.

    The class of an embedding that is there already is set to this one, so that its parameters keep their names and
    values. What it returns has the dtype that the network asked for.
    """

    _given: tuple[Tensor, Tensor | None] | None = None

    @contextlib.contextmanager
    def given(self, sinusoids: Tensor, added: Tensor | None) -> Iterator[None]:
        """Use ``sinusoids`` ``[B, C]``, float32, and add ``added`` ``[B, D]`` to the embedding."""
        self._given = (sinusoids, added)
        try:
            yield
        finally:
            self._given = None

    def forward(self, sample: Tensor, condition: Tensor | None = None) -> Tensor:
        """``sample`` ``[B, C]``: rounded sinusoids, of which only the dtype counts where exact ones are given."""
        if self._given is None:
            return super().forward(sample, condition)
        sinusoids, added = self._given
        if condition is not None:
            sinusoids = sinusoids + self.cond_proj(condition).float()
        embedding = _two_layers(self, sinusoids)
        return (embedding if added is None else embedding + added).to(sample.dtype)


class IntervalEmbedding(nn.Module):
    """Embedding of the interval ``t - r``, float32, of the shape of the network's time embedding; 0 at first.

    Its first layer starts as a copy of the network's, its last at 0: so the network is the published one for every
    ``r`` until the first step.
    """

    def __init__(self, like: TimestepEmbedding) -> None:
        super().__init__()
        first, last = like.linear_1, like.linear_2
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
        return _two_layers(self, sinusoids)


def time_inputs(network: nn.Module) -> tuple[Timesteps, ExactTimeEmbedding]:
    """Where ``network`` takes its time: its sinusoids, and its embedding, which takes exact times from now on.

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
    sinusoids, embedding = found[0]
    embedding.__class__ = ExactTimeEmbedding
    return sinusoids, embedding


def _named(module: nn.Module, names: tuple[str, ...], kind: type[nn.Module]) -> list[nn.Module]:
    return [getattr(module, name) for name in names if isinstance(getattr(module, name, None), kind)]


def _two_layers(layers: nn.Module, sinusoids: Tensor) -> Tensor:
    first, last = layers.linear_1, layers.linear_2
    with torch.autocast(sinusoids.device.type, enabled=False):
        hidden = layers.act(linear(sinusoids, first.weight.float(), _float(first.bias)))
        embedding = linear(hidden, last.weight.float(), _float(last.bias))
        return embedding if layers.post_act is None else layers.post_act(embedding)


def _float(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.float()
