"""Samples of a data set to look at beside generated ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rcgm.data.protocols import BatchReader, Bucketed


def examples(dataset: Any, count: int, labels: Tensor | None = None) -> Tensor:
    """``count`` different samples, spread over the data set.

    Args:
        dataset: with ``len(dataset)`` and ``dataset[i]``; with ``labels`` its attribute ``labels`` holds one class a
            sample.
        count: at least 1; a data set with fewer samples gives some of them again.
        labels: ``[count]``, int64: the class of each sample; None for any.

    Returns:
        float32 ``[count, ...]``.

    Raises:
        ValueError: the data set has no labels, or no sample of a class.
    """
    if labels is None:
        alike = of_one_shape(dataset)
        chosen = [alike[index * len(alike) // count] for index in range(count)]
    else:
        if getattr(dataset, "labels", None) is None:
            raise ValueError("labels must be None for a data set without classes")
        known = torch.as_tensor(dataset.labels)
        chosen = [0] * count
        for label in labels.unique().tolist():
            members = (known == label).nonzero().flatten()
            places = (labels == label).nonzero().flatten().tolist()
            if not len(members):
                raise ValueError(f"labels must be classes of the data, got {label}, of which it has no sample")
            for turn, place in enumerate(places):
                chosen[place] = int(members[turn * len(members) // len(places)])
    return samples_at(dataset, torch.tensor(chosen))


def of_one_shape(dataset: Any) -> range:
    """The indices of the samples that have the shape of the data set's ``info``: all, or the largest bucket."""
    return max(dataset.buckets, key=len) if isinstance(dataset, Bucketed) else range(len(dataset))


def samples_at(dataset: Any, indices: Tensor) -> Tensor:
    """The samples of a data set at the int64 ``indices`` ``[B]``, float32 ``[B, ...]``, without random changes."""
    if isinstance(dataset, BatchReader):
        return dataset.take(indices)[0]
    return torch.stack([dataset[index][0] for index in indices.tolist()])
