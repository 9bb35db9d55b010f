"""How good the samples of a run are, by the measures that its data allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.config import EvaluateConfig
from rcgm.data import Digits
from rcgm.distributed.shares import Processes
from rcgm.evaluation import evaluate_digits, evaluate_points, load_inception, train_digit_classifier
from rcgm.runs.generation import Method, Request, generate
from rcgm.runs.image_measure import Decode, ImageMeasure
from rcgm.runs.row_sampler import RowSampler
from rcgm.seeds import Purpose

__all__ = ["Measure", "build_measure", "measure_steps"]

Measure = Callable[[Tensor, "Tensor | None"], dict[str, float]]


def build_measure(
    dataset: Any,
    settings: EvaluateConfig | None = None,
    *,
    device: torch.device | None = None,
    decode: Decode | None = None,
    processes: Processes | None = None,
) -> Measure | ImageMeasure | None:
    """A measure of samples and their classes, or None where ``rcgm.evaluation`` has nothing for such data.

    Points are compared with the first half of the data, whose distance from the second half is the floor. Digits are
    judged by a classifier that is trained here, which takes a few seconds. Where ``settings.features`` names the
    weights of a network that judges images, that is used.

    Args:
        dataset: with an ``info``.
        settings: section ``evaluate`` of a run; None for its defaults.
        device: on which images are judged; None for the CPU.
        decode, processes: see :class:`~rcgm.runs.image_measure.ImageMeasure`.

    Raises:
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
        )
    if isinstance(dataset, Digits):
        classifier = train_digit_classifier()
        return lambda samples, labels: evaluate_digits(samples, labels, classifier)
    if dataset.info.kind == "points":
        middle = len(dataset) // 2
        reference, _ = dataset.take(torch.arange(middle))
        held_out, _ = dataset.take(torch.arange(middle, len(dataset)))
        return lambda samples, labels: evaluate_points(samples, reference, held_out[: len(samples)])
    return None


def measure_steps(
    measure: Measure | ImageMeasure,
    network: nn.Module,
    dataset: Any,
    *,
    steps: Sequence[int],
    count: int,
    guidance: float,
    seed: int,
    device: torch.device,
    method: Method | None = None,
    autocast: torch.dtype = torch.float32,
    on_chunk: Callable[[int], None] | None = None,
    processes: Processes | None = None,
) -> dict[str, dict[str, float]]:
    """Sample ``network`` in each number of steps, from the same noise, and measure: ``{"1": {...}, "2": {...}}``.

    ``processes`` share the sampling, see :func:`generate`; each of them measures. Of an
    :class:`~rcgm.runs.image_measure.ImageMeasure` the first process has the numbers, and the others have none.
    """
    if isinstance(measure, ImageMeasure):
        return {
            str(number): measure(
                RowSampler(
                    network,
                    dataset.info,
                    steps=number,
                    seed=seed,
                    device=device,
                    method=method,
                    guidance=guidance,
                    autocast=autocast,
                ),
                count,
                on_chunk,
            )
            for number in steps
        }
    conditional = getattr(network, "num_classes", None) is not None
    request = Request(dataset.info, count, seed=seed, purpose=Purpose.EVALUATION, conditional=conditional)
    report = {}
    for number in steps:
        samples = generate(
            network,
            request,
            steps=number,
            device=device,
            method=method,
            seed=seed,
            guidance=guidance,
            autocast=autocast,
            on_chunk=on_chunk,
            processes=processes,
        )
        report[str(number)] = measure(samples, request.labels)
    return report
