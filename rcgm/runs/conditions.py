"""What the samples of a run are conditioned on, and what stands for no condition."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from rcgm.data import Captioned, DataInfo
from rcgm.engine import conditions
from rcgm.engine.conditions import Condition

__all__ = ["Captions", "DataCaptions", "null_condition", "takes_condition"]


class Captions(Protocol):
    """Captions that samples are drawn for, by the number of the sample, and their conditions.

    Attributes:
        null: the conditions of the empty caption, with a leading dimension of 1.
    """

    null: dict[str, Tensor]

    def texts(self, rows: range) -> list[str]:
        """The captions of the samples of these numbers."""
        ...

    def condition(self, rows: range) -> dict[str, Tensor]:
        """Their conditions ``[len(rows), ...]`` by name, on the CPU."""
        ...

    def noise_keys(self, rows: range) -> list[int]:
        """What tells the noise of these samples apart from that of others, from 0 on."""
        ...


class DataCaptions:
    """The captions of a data set from its first one on, and from there again where there are more samples.

    Args:
        dataset: with captions, and a length.
    """

    def __init__(self, dataset: Captioned) -> None:
        self._dataset = dataset
        self.null = dict(dataset.null_cond)

    def texts(self, rows: range) -> list[str]:
        return self._dataset.captions(self._indices(rows))

    def condition(self, rows: range) -> dict[str, Tensor]:
        return self._dataset.conditions(self._indices(rows))

    def noise_keys(self, rows: range) -> list[int]:
        return list(rows)

    def _indices(self, rows: range) -> Tensor:
        return torch.tensor(rows) % len(self._dataset)


def takes_condition(network: nn.Module, info: DataInfo) -> bool:
    """Whether ``network`` is given what the samples are conditioned on: text states always, and classes where its
    attribute ``num_classes`` says so."""
    return info.text is not None or getattr(network, "num_classes", None) is not None


def null_condition(num_classes: int | None, device: torch.device, text: dict[str, Tensor] | None = None) -> Condition:
    """What a dropped condition becomes, with a leading dimension of 1.

    Args:
        num_classes: of a network that takes classes; the null class is the number of classes itself.
        device: of the result.
        text: conditions of the empty caption, for a network that takes captions.
    """
    if text is not None:
        return conditions.moved(text, device)
    return None if num_classes is None else torch.tensor([num_classes], device=device)
