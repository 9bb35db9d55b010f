"""What the networks of all families share."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from rcgm.networks.stock import load_transformer, stock_class

if TYPE_CHECKING:
    from diffusers import ModelMixin

    from rcgm.networks.times import TimeInput

__all__ = ["INTERVALS", "PublishedNetwork"]

INTERVALS = ("embedding", "none")

TextCondition = Mapping[str, Tensor]
"""Tensors by name, each with leading dimension B: ``text`` ``[B, L, C]``, and what else the family takes."""


class PublishedNetwork(nn.Module, ABC):
    """A transformer of diffusers as a network ``(x, t, r, cond)`` that predicts the average velocity, noise minus data.

    The interval ``t - r`` has an embedding of its own, added to the network's time embedding and 0 at first: for every
    ``r`` the network is then the published one. A network that was published with an embedding of ``r`` or of ``t - r``
    keeps that instead. Times go to all of them in float32, whatever the dtype of the weights.

    Args:
        transformer: of the class ``STOCK``; it is used as it is, not copied, and its time embedding is changed to take
            exact times.
        interval: ``"embedding"``, or ``"none"`` for a network that stays a function of ``t`` alone (consistency
            models, flow matching): what is trained is then an ordinary model of its class. A network with an embedding
            of ``r`` of its own takes ``"embedding"`` alone.

    Raises:
        TypeError: ``transformer`` is of another class.
        ValueError: ``interval`` is neither or does not fit, or the network has no time embedding of the usual kind.
    """

    STOCK: ClassVar[str]
    """Name of the class of diffusers."""
    block_names: ClassVar[tuple[str, ...]] = ("transformer_blocks",)
    """Names of the ModuleLists of repeated blocks, which are compiled, checkpointed and sharded one by one."""
    image_block_names: ClassVar[tuple[str, ...] | None] = None
    """Names of those whose outputs have the tokens of the image, for features; None for all."""
    image_output: ClassVar[int] = -1
    """Where a block that puts out several tensors has the tokens of the image."""
    lora_targets: ClassVar[tuple[str, ...]]
    """Names of the linear layers that LoRA adapts if nobody says which."""
    conditions: ClassVar[tuple[str, ...]] = ("text",)
    """Names that a condition must have."""
    sign: ClassVar[float] = 1.0
    """Of the network's output, as a velocity from data to noise."""

    def __init__(self, transformer: ModelMixin, *, interval: str = "embedding") -> None:
        super().__init__()
        if not isinstance(transformer, stock_class(self.STOCK)):
            raise TypeError(f"transformer must be a {self.STOCK}, got {type(transformer).__name__}")
        if interval not in INTERVALS:
            raise ValueError(f"interval must be one of {', '.join(INTERVALS)}, got {interval!r}")
        from rcgm.networks.times import IntervalEmbedding  # needs diffusers

        self.transformer = transformer
        # in a tuple, which does not register the modules a second time: their parameters have one name
        self._times = tuple(self.find_times())
        self._own_interval = self.find_interval()
        if self._own_interval is not None and interval == "none":
            raise ValueError("interval must be embedding, got 'none': this network has an embedding of r of its own")
        added = self._own_interval is None and interval == "embedding"
        self.interval_embedder = IntervalEmbedding(self._times[0].embedding.layers) if added else None

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        dtype: str | torch.dtype = "float32",
        interval: str = "embedding",
        quantization: str = "none",
    ) -> PublishedNetwork:
        """Load the transformer of a folder, or of a name on the hub; what a configuration says of a model.

        Args:
            path: folder of a whole pipeline, whose folder ``transformer`` is taken, or of a transformer alone; or the
                name of a pipeline on the hub, ``owner/name``.
            dtype: of the weights, float32 or bfloat16. The embedding of the interval is float32.
            interval: see the class.
            quantization: ``"none"``; ``"int8"`` or ``"nf4"`` for linear layers of 8 or 4 bits, which adapters alone can
                train.

        Raises:
            ModuleNotFoundError: diffusers is not installed, or what quantization needs.
            ValueError: there is no such model, it is of another class or cannot be read; and see the class.
        """
        return cls(load_transformer(cls.STOCK, path, dtype, quantization=quantization), interval=interval)

    def forward(self, x: Tensor, t: Tensor, r: Tensor, cond: TextCondition) -> Tensor:
        """The average velocity over [r, t] at ``x``.

        Args:
            x: latents as the family's pipeline has them, normalised, ``[B, C, H, W]``, or ``[B, C, T, H, W]`` of
                videos; cast to the weights' dtype.
            t, r: ``[B]``, float32 or float64, with 0 the data and 1 the noise, ``r <= t``.
            cond: tensors by name: those of ``conditions``, and ``mask`` ``[B, L]`` where the family takes one.

        Returns:
            A tensor of the shape of ``x``, in the dtype of the weights or of autocast.

        Raises:
            TypeError: ``cond`` is no mapping of tensors, or the times are in half precision.
            ValueError: ``cond`` lacks a tensor.
        """
        self._check(t, r, cond)
        dtype = self.transformer.dtype
        inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in cond.items()}
        with self.exact_times(t, r):
            prediction = self.predict(x.to(dtype), t, inputs)
        return prediction if self.sign == 1 else self.sign * prediction

    def exact_times(self, t: Tensor, r: Tensor) -> contextlib.ExitStack:
        """Within it each call of the transformer is at ``t`` and ``r``, ``[B]`` or ``[1]``, whatever it is given."""
        with contextlib.ExitStack() as given:
            for place, scaled, added in self.given_times(t, r):
                given.enter_context(place.embedding.given(place.features(scaled), added))
            return given.pop_all()

    @abstractmethod
    def predict(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """The transformer's output for ``x`` at ``t``; the times that it is given count for their dtype alone."""

    @property
    def time_scale(self) -> float:
        """What ``t`` is multiplied by before the sinusoids."""
        return 1000.0

    def scaled_time(self, t: Tensor) -> Tensor:
        """The time as the network's sinusoids take it."""
        return t * self.time_scale

    def scaled_interval(self, t: Tensor, r: Tensor) -> Tensor:
        """What the sinusoids take that belong to an embedding of ``r`` of the network's own."""
        return r * self.time_scale

    def find_times(self) -> list[TimeInput]:
        """Where the transformer takes its time; the embedding of the interval is added to the first."""
        from rcgm.networks.times import time_inputs  # needs diffusers

        return time_inputs(self.transformer)

    def find_interval(self) -> TimeInput | None:
        """The transformer's own embedding of ``r``, if it has one."""
        return None

    def given_times(self, t: Tensor, r: Tensor) -> Iterator[tuple[TimeInput, Tensor, Tensor | None]]:
        """Each place that takes a time, that time, and what is added to its embedding."""
        added = None
        if self.interval_embedder is not None:
            added = self.interval_embedder(self._times[0].features((t - r) * self.time_scale))
        for number, place in enumerate(self._times):
            yield place, self.scaled_time(t), added if number == 0 else None
        if self._own_interval is not None:
            yield self._own_interval, self.scaled_interval(t, r), None

    def _check(self, t: Tensor, r: Tensor, cond: Any) -> None:
        for name, time in (("t", t), ("r", r)):
            if time.dtype not in (torch.float32, torch.float64):
                raise TypeError(
                    f"{name} must be float32 or float64, got {time.dtype}: half precision rounds times away"
                )
        if not isinstance(cond, Mapping):
            raise TypeError(f"cond must be a mapping with {', '.join(self.conditions)}, got {type(cond).__name__}")
        missing = [name for name in self.conditions if name not in cond]
        if missing:
            raise ValueError(f"cond must have {', '.join(self.conditions)}, got {', '.join(cond) or 'nothing'}")
