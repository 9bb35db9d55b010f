"""How good the samples of a run are, by the measures that its data allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.data import Digits
from rcgm.evaluation import evaluate_digits, evaluate_points, train_digit_classifier
from rcgm.shares import Processes
from rcgm.training.generation import Method, Request, generate
from rcgm.training.randomness import Purpose

__all__ = ["Measure", "build_measure", "measure_steps"]

Measure = Callable[[Tensor, "Tensor | None"], dict[str, float]]


def build_measure(dataset: Any) -> Measure | None:
    """A function of samples and their classes, or None where ``rcgm.evaluation`` has nothing for such data.

    Points are compared with the first half of the data, whose distance from the second half is the floor. Digits are
    judged by a classifier that is trained here, which takes a few seconds.
    """
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
    measure: Measure,
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

    ``processes`` share the sampling, see :func:`generate`; each of them measures.
    """
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
