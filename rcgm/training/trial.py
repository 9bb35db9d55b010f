"""Forwards of the network of a run on the meta device: they cost no memory and almost no time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.config import ConfigError
from rcgm.data import DataInfo
from rcgm.data.info import TextInfo
from rcgm.data.protocols import Bucketed
from rcgm.data.text.layout import MASKS, shape_text
from rcgm.engine.conditions import Condition

__all__ = ["batch_like", "check_shapes", "on_meta", "text_condition", "trial_forward"]


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """The network that ``build`` makes, without memory."""
    with torch.device("meta"):
        return build().eval()


def text_condition(text: TextInfo, rows: int) -> dict[str, Tensor]:
    """Zeros in the shapes of ``rows`` captions of full length, on the default device."""
    return {
        name: torch.ones(rows, *shape, dtype=torch.bool) if name in MASKS else torch.zeros(rows, *shape)
        for name, shape in text.tensors.items()
    }


def batch_like(info: DataInfo, network: nn.Module, device: torch.device, rows: int = 1) -> tuple[Tensor, Condition]:
    """Zeros like ``rows`` samples of data like ``info``, and their condition as ``network`` takes it."""
    with device:
        x = torch.zeros(rows, *info.shape)
        if info.text is not None:
            return x, text_condition(info.text, rows)
        return x, None if getattr(network, "num_classes", None) is None else torch.zeros(rows, dtype=torch.int64)


@torch.no_grad()
def trial_forward(network: nn.Module, info: DataInfo) -> None:
    """Put one sample of data like ``info`` through a network of :func:`on_meta`."""
    x, cond = batch_like(info, network, torch.device("meta"))
    times = torch.zeros(1, device="meta")
    network(x, times, times, cond)


def check_shapes(build: Callable[[], nn.Module], dataset: Any) -> None:
    """Refuse data of several shapes if the network cannot take the highest, the widest or the largest of them.

    A run would find out only when it meets one.

    Args:
        build: makes the network.
        dataset: of the run.

    Raises:
        ConfigError: it names the shape and what the network says.
    """
    if not isinstance(dataset, Bucketed):
        return
    shapes = [tuple(dataset[bucket[0]][0].shape) for bucket in dataset.buckets]
    network = on_meta(build)
    sizes: list[Callable[[tuple[int, ...]], int]] = [lambda shape: shape[-2], lambda shape: shape[-1], math.prod]
    for shape in dict.fromkeys(max(shapes, key=size) for size in sizes):
        try:
            trial_forward(network, dataclasses.replace(dataset.info, shape=shape))
        except Exception as error:  # networks raise what they like
            raise ConfigError(
                f"data: the network does not take its samples of {shape_text(shape)}: {error}. Leave them out, or "
                "encode the images with a smaller --size"
            ) from error
