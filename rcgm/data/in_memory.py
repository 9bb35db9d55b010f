"""A data set whose samples are one tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset

from rcgm.data.fingerprint import content_indices, hash_of_tensors
from rcgm.data.info import DataInfo
from rcgm.data.labels import check_labels


class InMemoryDataset(Dataset):
    """Samples and labels held as two tensors.

    Args:
        samples: float32 `[N, *info.shape]`, N >= 1, all values finite.
        labels: int64 `[N]` in `[0, info.num_classes)`, or None where `info.num_classes` is None.
        info: what the samples are.

    `dataset[i]` is `(samples[i], labels[i])`, the label being a plain int, -1 without labels.

    Raises:
        TypeError, ValueError: the tensors are not as `info` says.
    """

    in_memory = True

    def __init__(self, samples: torch.Tensor, labels: torch.Tensor | None, info: DataInfo) -> None:
        if samples.dtype != torch.float32:
            raise TypeError(f"samples must be torch.float32, got {samples.dtype}")
        if samples.ndim == 0 or tuple(samples.shape[1:]) != info.shape or len(samples) == 0:
            needed = ", ".join(map(str, info.shape))
            raise ValueError(f"samples must be [N, {needed}] with N of at least 1, got {list(samples.shape)}")
        if not torch.isfinite(samples).all():
            raise ValueError("samples must be finite, got infinities or NaN")
        check_labels("labels", labels, len(samples), info.num_classes)
        self.samples = samples
        self.labels = labels
        self.info = info

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.samples[index], -1 if self.labels is None else int(self.labels[index])

    def take(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Samples float32 `[B, ...]` and labels int64 `[B]` (or None) at the int64 `indices` `[B]`."""
        labels = None if self.labels is None else self.labels.index_select(0, indices)
        return self.samples.index_select(0, indices), labels

    def fingerprint(self) -> dict[str, Any]:
        """See `rcgm.data.data_fingerprint`: samples, evenly spaced."""
        indices = content_indices(len(self), self.info.shape)
        return {"content": hash_of_tensors([self.samples[indices]])}
