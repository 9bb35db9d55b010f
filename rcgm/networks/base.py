"""What the networks of all families share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from rcgm.networks.stock import load_transformer, stock_class

if TYPE_CHECKING:
    from diffusers import ModelMixin

__all__ = ["INTERVALS", "PublishedNetwork"]

INTERVALS = ("embedding", "none")

TextCondition = Mapping[str, Tensor]
"""Tensors by name, each with leading dimension B: ``text`` ``[B, L, C]``, and what else the family takes."""


class PublishedNetwork(nn.Module, ABC):
    """A transformer of diffusers as a network ``(x, t, r, cond)`` that predicts the average velocity, noise minus data.

    The interval ``t - r`` has an embedding of its own, added to the network's time embedding and 0 at first: for every
    ``r`` the network is then the published one. Times go to both in float32, whatever the dtype of the weights.

    Args:
        transformer: of the class ``STOCK``; it is used as it is, not copied, and its time embedding is changed to take
            exact times.
        interval: ``"embedding"``, or ``"none"`` for a network that stays a function of ``t`` alone (consistency
            models, flow matching): what is trained is then an ordinary model of its class.

    Raises:
        TypeError: ``transformer`` is of another class.
        ValueError: ``interval`` is neither, or the network has no time embedding of the usual kind.
    """

    STOCK: ClassVar[str]
    """Name of the class of diffusers."""
    block_names: ClassVar[tuple[str, ...]] = ("transformer_blocks",)
    """Names of the ModuleLists of repeated blocks, which are compiled, checkpointed and sharded one by one."""
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
        from rcgm.networks.times import IntervalEmbedding, time_inputs  # needs diffusers

        self.transformer = transformer
        # a tuple, which does not register the two a second time: their parameters have one name
        self._time_inputs = time_inputs(transformer)
        self.interval_embedder = IntervalEmbedding(self._time_inputs[1]) if interval == "embedding" else None

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, dtype: str | torch.dtype = "float32", interval: str = "embedding"
    ) -> PublishedNetwork:
        """Load the transformer of a folder, or of a name on the hub; what a configuration says of a model.

        Args:
            path: folder of a whole pipeline, whose folder ``transformer`` is taken, or of a transformer alone; or the
                name of a pipeline on the hub, ``owner/name``.
            dtype: of the weights, float32 or bfloat16. The embedding of the interval is float32.
            interval: see the class.

        Raises:
            ModuleNotFoundError: diffusers is not installed.
            ValueError: there is no such model, it is of another class or cannot be read; and see the class.
        """
        return cls(load_transformer(cls.STOCK, path, dtype), interval=interval)

    def forward(self, x: Tensor, t: Tensor, r: Tensor, cond: TextCondition) -> Tensor:
        """The average velocity over [r, t] at ``x``.

        Args:
            x: latents as the family's pipeline has them, normalised, ``[B, C, H, W]``; cast to the weights' dtype.
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
        added = None
        if self.interval_embedder is not None:
            added = self.interval_embedder(self._features(t - r))
        _, embedding = self._time_inputs
        with embedding.given(self._features(t), added):
            prediction = self.predict(x.to(dtype), t, inputs)
        return prediction if self.sign == 1 else self.sign * prediction

    @abstractmethod
    def predict(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """The transformer's output for ``x`` at ``t``; the times that it is given count for their dtype alone."""

    @property
    def time_scale(self) -> float:
        """What ``t`` is multiplied by before the sinusoids."""
        return 1000.0

    def _features(self, time: Tensor) -> Tensor:
        sinusoids, _ = self._time_inputs
        return sinusoids((time * (self.time_scale / sinusoids.scale)).float())

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
