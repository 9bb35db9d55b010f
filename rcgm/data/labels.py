"""Labels of samples: integers from 0, one a class."""

from __future__ import annotations

from collections.abc import Sequence

import torch

LARGEST = 2**63 - 1


def labels_from(values: Sequence[int], where: str) -> torch.Tensor:
    """Python integers as int64 `[N]`.

    Raises:
        ValueError: one is too large; the message names `where` they come from.
    """
    wrong = [value for value in values if abs(value) > LARGEST]
    if wrong:
        raise ValueError(f"labels must fit into 64 bits, got {wrong[0]:.3e} in {where}")
    return torch.tensor(values, dtype=torch.int64)


def count_classes(labels: torch.Tensor) -> int:
    """The largest of the int64 `labels` `[N]` plus one.

    Raises:
        ValueError: more than half of so many classes have no sample: the labels are no numbers of classes.
    """
    number = max([0, *labels.tolist()]) + 1
    present = len(labels.unique())
    if len(labels) and int(labels.min()) >= 0 and 2 * present < number:
        raise ValueError(
            f"labels must number the classes from 0, got {present} different ones up to {number - 1}: renumber them "
            "(numpy.unique(labels, return_inverse=True)[1]), or set num_classes where the others are to stay empty"
        )
    return number


def check_labels(name: str, labels: torch.Tensor | None, length: int, num_classes: int | None) -> None:
    """Raise TypeError or ValueError unless `labels` is int64 `[length]` in `[0, num_classes)`, or both are None."""
    if labels is None or num_classes is None:
        if (labels is None) != (num_classes is None):
            given = "None" if labels is None else "given"
            raise ValueError(f"{name} and num_classes must both be given, or neither, got {given} and {num_classes}")
        return
    if labels.dtype != torch.int64:
        raise TypeError(f"{name} must be torch.int64, got {labels.dtype}")
    if tuple(labels.shape) != (length,):
        raise ValueError(f"{name} must be [{length}], one a sample, got {list(labels.shape)}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{name} must be from 0 to {num_classes - 1}, with num_classes {num_classes}, got {low} to {high}"
        )
