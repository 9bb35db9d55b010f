"""What a data set holds, in a few lines for its user."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rcgm.data.examples import of_one_shape, samples_at
from rcgm.data.fingerprint import CONTENT_SAMPLES, content_indices, evenly_spaced
from rcgm.data.protocols import BatchReader

CLASSES_IN_LINE = 10


def describe_data(dataset: Any, *, values: bool = True) -> list[str]:
    """Count, shape, range, mean and standard deviation, classes and empty classes, and the data set's own notes.

    Range, mean and standard deviation are of evenly spaced samples, as the network gets them, without random changes.

    Args:
        dataset: with an ``info``, and where there is something to say a list of sentences, ``notes``.
        values: whether to read samples for their range, mean and standard deviation.

    Returns:
        Lines.
    """
    info = dataset.info
    if info.text is not None:
        what = "latents with captions"
    else:
        what = "points" if info.kind == "points" else "images" if info.normalisation is None else "latents"
    shape = " x ".join(map(str, info.shape))
    lines = [f"data: {len(dataset):,} {what} of {shape}{_values(dataset) if values else ''}"]
    labels = getattr(dataset, "labels", None)
    if info.text is not None:
        tensors = (f"{name} {' x '.join(map(str, size))}" for name, size in info.text.tensors.items())
        lines.append(f"conditions of {info.text.encoder or info.text.family}: {', '.join(tensors)}")
    elif info.num_classes is None:
        lines.append("classes: none")
    elif labels is None:
        lines.append(f"classes: {info.num_classes:,}")
    else:
        counts = torch.bincount(torch.as_tensor(labels), minlength=info.num_classes)
        lines.append(f"classes: {info.num_classes:,}, of {int(counts.min()):,} to {int(counts.max()):,} samples")
        empty = (counts == 0).nonzero().flatten().tolist()
        if empty:
            names = [info.class_names[label] if info.class_names else str(label) for label in empty[:CLASSES_IN_LINE]]
            more = ", ..." if len(empty) > CLASSES_IN_LINE else ""
            lines.append(f"classes without a sample: {len(empty):,} ({', '.join(names)}{more})")
    return lines + list(getattr(dataset, "notes", ()))


def _values(dataset: Any) -> str:
    samples = _some(dataset)
    return (
        f", values from {float(samples.min()):.4g} to {float(samples.max()):.4g}, mean {float(samples.mean()):.3g}, "
        f"standard deviation {float(samples.std(correction=0)):.3g} (of {len(samples):,} samples)"
    )


def _some(dataset: Any) -> Tensor:
    alike = of_one_shape(dataset)
    if isinstance(dataset, BatchReader):
        indices = content_indices(len(alike), dataset.info.shape)
    else:
        indices = evenly_spaced(len(alike), CONTENT_SAMPLES)
    return samples_at(dataset, torch.tensor(indices) + alike.start)
