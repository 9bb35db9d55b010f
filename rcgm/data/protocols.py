"""What a data set may offer beyond `len(dataset)` and `dataset[i]`, and the batch stream then uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

Labels = torch.Tensor | Mapping[str, torch.Tensor] | None
"""What samples are conditioned on: labels int64 `[B]`, tensors `[B, ...]` by name, or nothing."""


@runtime_checkable
class BatchReader(Protocol):
    """Reads many samples at once, without Python in between.

    `in_memory` is True where a read is a copy from memory, so that worker processes would cost more than they save.
    """

    in_memory: bool

    def take(self, indices: torch.Tensor) -> tuple[torch.Tensor, Labels]:
        """For int64 indices `[B]` return samples float32 `[B, ...]` and labels int64 `[B]`, or None without labels;
        or tensors `[B, ...]` by name."""
        ...


@runtime_checkable
class Bucketed(Protocol):
    """Has samples of several shapes, of which a batch can hold one alone."""

    buckets: Sequence[range]
    """Indices of the samples of each shape; together those of all samples."""


class Captioned(Protocol):
    """Has captions, encoded to tensors by name; needed where `info.text` is not None."""

    null_cond: Mapping[str, torch.Tensor]
    """The tensors of the empty caption, each with a leading dimension of 1."""

    def conditions(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors `[B, ...]` at int64 indices `[B]`, of whatever shapes the samples are."""
        ...

    def captions(self, indices: torch.Tensor) -> list[str]:
        """The captions at int64 indices `[B]`."""
        ...


@runtime_checkable
class Augmented(Protocol):
    """Can return a sample with random changes, all of them drawn from the generator it is given."""

    def augmented(self, index: int, generator: torch.Generator) -> tuple[torch.Tensor, int | None]:
        """Return the sample as `dataset[index]` does, randomly changed."""
        ...


@runtime_checkable
class Fingerprinted(Protocol):
    """Knows a better fingerprint of its content than a hash of the samples it returns."""

    def fingerprint(self) -> dict[str, Any]:
        """Entries for `rcgm.data.data_fingerprint`, plain JSON values, independent of where the files lie."""
        ...
