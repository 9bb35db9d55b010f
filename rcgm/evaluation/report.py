"""All measures of the digits at once, as plain numbers."""

from __future__ import annotations

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
from rcgm.evaluation.neighbours import check_neighbours


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
