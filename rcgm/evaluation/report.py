"""All measures of one kind of data at once, as plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch

from rcgm.data.digits import Digits
from rcgm.evaluation.classifier import (
    TrainedClassifier,
    check_digit_images,
    check_digit_labels,
    class_accuracy,
    train_digit_classifier,
)
from rcgm.evaluation.frechet import frechet_distance
from rcgm.evaluation.mmd import WIDTHS, squared_mmd
from rcgm.evaluation.neighbours import check_neighbours


def evaluate_points(
    samples: torch.Tensor,
    reference: torch.Tensor,
    held_out: torch.Tensor | None = None,
    widths: Sequence[float] = WIDTHS,
    limit: int = 4000,
) -> dict[str, float]:
    """Measure generated points.

    Args:
        samples: floating `[N, D]`, N >= 2.
        reference: floating `[M, D]`, M >= 2, real points.
        held_out: floating `[K, D]`, other real points; gives the floor that a perfect model would reach.
        widths: of the kernels of the MMD.
        limit: at most this many rows of each tensor are used, the first ones. Numbers compare at equal counts only.

    Returns:
        "squared_mmd" and "frechet_distance" (of the points themselves) between samples and reference; with held_out,
        "squared_mmd_floor" and "frechet_distance_floor" between held_out and reference; "samples", how many were used.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    if limit < 2:
        raise ValueError(f"limit is {limit}; it needs at least 2")
    samples, reference = samples[:limit], reference[:limit]
    report = {
        "samples": float(len(samples)),
        "squared_mmd": squared_mmd(samples, reference, widths),
        "frechet_distance": frechet_distance(samples, reference),
    }
    if held_out is not None:
        report["squared_mmd_floor"] = squared_mmd(held_out[:limit], reference, widths)
        report["frechet_distance_floor"] = frechet_distance(held_out[:limit], reference)
    return report


def evaluate_digits(
    samples: torch.Tensor,
    labels: torch.Tensor | None = None,
    classifier: TrainedClassifier | None = None,
) -> dict[str, float]:
    """Measure generated digits against the 1,797 real ones.

    Args:
        samples: floating `[N, 1, 8, 8]`, N >= 2; clamped to [-1, 1], as writing them as images would.
        labels: int64 `[N]`, the classes that were asked for, or None.
        classifier: None trains `train_digit_classifier()`, a few seconds; pass one to measure more than once.

    Returns:
        "samples", their number; "frechet_distance" of the classifier's features; "classifier_accuracy", the
        classifier's own on held-out digits; the fields of `NeighbourReport` with the prefix "nearest_"; with labels,
        "class_accuracy".

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    check_digit_images("samples", samples, 2)
    if labels is not None:
        check_digit_labels(labels, len(samples))
    classifier = train_digit_classifier() if classifier is None else classifier
    samples = samples.detach().cpu().float().clamp(-1.0, 1.0)
    real = Digits().samples
    _, features = classifier.classify(samples)
    _, real_features = classifier.classify(real)
    report = {
        "samples": float(len(samples)),
        "classifier_accuracy": classifier.accuracy,
        "frechet_distance": frechet_distance(features, real_features),
    }
    if labels is not None:
        report["class_accuracy"] = class_accuracy(classifier, samples, labels)
    report.update({f"nearest_{name}": value for name, value in asdict(check_neighbours(samples, real)).items()})
    return report
