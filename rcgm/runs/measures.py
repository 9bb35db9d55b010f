"""How good the samples of a run are, by the measures that its data allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from rcgm.config import EvaluateConfig
from rcgm.data import Digits, samples_at
from rcgm.distributed.shares import Processes
from rcgm.evaluation import SIDE, DigitReference, ImageReference, PointReference, load_inception, thumbnails
from rcgm.runs.image_measure import Decode, ImageMeasure
from rcgm.runs.sampler import RunSampler

__all__ = ["DigitMeasure", "Measure", "PixelMeasure", "PointMeasure", "build_measure", "measure_steps"]

OnChunk = Callable[[int], None]

MOST_IMAGES, READ_AT_ONCE = 10_000, 256
"""Real images that a :class:`PixelMeasure` compares with, at most, and those that are read at a time."""


class Measure(Protocol):
    """Makes samples and measures them. What depends on real data alone is computed once and kept."""

    def __call__(
        self, sampler: RunSampler, count: int, *, steps: int, on_chunk: OnChunk | None = None
    ) -> dict[str, float]:
        """Numbers by name, on rank 0; nothing on the other ranks. Each process has to make the call.

        Args:
            sampler: makes the samples.
            count: of the samples, which are numbered from 0.
            steps: of the sampler.
            on_chunk: called with the number of samples that have been made since its last call, in all processes.
        """
        ...


class PointMeasure:
    """Compares points with the first half of the data, whose distance from the second half is the floor.

    Args:
        dataset: of points, with ``take``.
    """

    def __init__(self, dataset: Any) -> None:
        middle = len(dataset) // 2
        reference, _ = dataset.take(torch.arange(middle))
        held_out, _ = dataset.take(torch.arange(middle, len(dataset)))
        self._reference = PointReference(reference, held_out)

    def __call__(
        self, sampler: RunSampler, count: int, *, steps: int, on_chunk: OnChunk | None = None
    ) -> dict[str, float]:
        samples = sampler.draw(count, steps=steps, on_chunk=on_chunk)
        return {} if samples is None else self._reference.evaluate(samples)


class DigitMeasure:
    """Judges digits by a classifier that is trained here, which takes a few seconds."""

    def __init__(self) -> None:
        self._reference = DigitReference()

    def __call__(
        self, sampler: RunSampler, count: int, *, steps: int, on_chunk: OnChunk | None = None
    ) -> dict[str, float]:
        samples = sampler.draw(count, steps=steps, on_chunk=on_chunk)
        return {} if samples is None else self._reference.evaluate(samples, sampler.labels(range(count)))


class PixelMeasure:
    """Compares images with those of the data, without a network of others: :class:`~rcgm.evaluation.ImageReference`.

    The real images are read, and a classifier is trained on them, at the first call, on rank 0.

    Args:
        dataset: of images with a ``value_range``.
        count: real images to compare with, evenly spaced; all where the data have fewer.
    """

    def __init__(self, dataset: Any, count: int) -> None:
        self._dataset = dataset
        self._count = min(count, len(dataset), MOST_IMAGES)
        self._reference: ImageReference | None = None

    def __call__(
        self, sampler: RunSampler, count: int, *, steps: int, on_chunk: OnChunk | None = None
    ) -> dict[str, float]:
        samples = sampler.draw(count, steps=steps, on_chunk=on_chunk)
        if samples is None:
            return {}
        if self._reference is None:
            self._reference = self._of_data()
        return self._reference.evaluate(self._small(samples), sampler.labels(range(count)))

    def _of_data(self) -> ImageReference:
        chosen = torch.arange(self._count) * len(self._dataset) // self._count
        # Only the small ones are kept: all images at once may not fit into memory.
        images = torch.cat([self._small(samples_at(self._dataset, part)) for part in chosen.split(READ_AT_ONCE)])
        labels = getattr(self._dataset, "labels", None)
        classes = None if labels is None else self._dataset.info.num_classes
        return ImageReference(images, None if classes is None else torch.as_tensor(labels)[chosen], classes)

    def _small(self, images: Tensor) -> Tensor:
        low, high = self._dataset.info.value_range
        return thumbnails(((images - low) * (2.0 / (high - low)) - 1.0).clamp(-1.0, 1.0), SIDE)


def build_measure(
    dataset: Any,
    settings: EvaluateConfig | None = None,
    *,
    device: torch.device | None = None,
    decode: Decode | None = None,
    processes: Processes | None = None,
    save_reference: Path | None = None,
) -> Measure | None:
    """The measure of samples like those of ``dataset``, or None where there is none.

    Where ``settings.features`` names the weights of a network that judges images, it is an :class:`ImageMeasure`;
    otherwise digits, points and other images (not latents) have measures of their own.

    Args:
        dataset: with an ``info``.
        settings: section ``evaluate`` of a run; None for its defaults.
        device: on which images are judged; None for the CPU.
        decode, processes, save_reference: see :class:`~rcgm.runs.image_measure.ImageMeasure`.

    Raises:
        ValueError: ``save_reference`` without ``settings.features``.
        ModuleNotFoundError, FileNotFoundError, ValueError: of the files that ``settings`` name, or their network.
    """
    if settings is not None and settings.features is not None:
        device = torch.device("cpu") if device is None else device
        return ImageMeasure(
            load_inception(settings.features, device),
            dataset,
            device=device,
            reference=settings.reference,
            reference_count=settings.reference_count,
            batch_size=settings.batch_size,
            decode=decode,
            processes=processes,
            save_reference=save_reference,
        )
    if save_reference is not None:
        raise ValueError("save_reference must be left out without features, the weights of the Inception network")
    if isinstance(dataset, Digits):
        return DigitMeasure()
    if dataset.info.kind == "points":
        return PointMeasure(dataset)
    count = EvaluateConfig().reference_count if settings is None else settings.reference_count
    return None if dataset.info.value_range is None else PixelMeasure(dataset, count)


def measure_steps(
    measure: Measure, sampler: RunSampler, *, steps: Sequence[int], count: int, on_chunk: OnChunk | None = None
) -> dict[str, dict[str, float]]:
    """Measure samples of each number of steps, from the same noise: ``{"1": {...}, "2": {...}}``."""
    return {str(number): measure(sampler, count, steps=number, on_chunk=on_chunk) for number in steps}
