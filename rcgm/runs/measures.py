"""How good the samples of a run are, by the measures that its data allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from rcgm.config import EvaluateConfig
from rcgm.data import Digits
from rcgm.distributed.shares import Processes
from rcgm.evaluation import DigitReference, PointReference, load_inception
from rcgm.runs.image_measure import Decode, ImageMeasure
from rcgm.runs.sampler import RunSampler

__all__ = ["DigitMeasure", "Measure", "PointMeasure", "build_measure", "measure_steps"]

OnChunk = Callable[[int], None]


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
    otherwise digits and points have measures of their own.

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
        raise ValueError("save_reference needs features: give the weights of the Inception network")
    if isinstance(dataset, Digits):
        return DigitMeasure()
    return PointMeasure(dataset) if dataset.info.kind == "points" else None


def measure_steps(
    measure: Measure, sampler: RunSampler, *, steps: Sequence[int], count: int, on_chunk: OnChunk | None = None
) -> dict[str, dict[str, float]]:
    """Measure samples of each number of steps, from the same noise: ``{"1": {...}, "2": {...}}``."""
    return {str(number): measure(sampler, count, steps=number, on_chunk=on_chunk) for number in steps}
