"""All measures of the digits at once, as plain numbers."""

from __future__ import annotations

from dataclasses import asdict

import torch

from rcgm.data.digits import Digits
from rcgm.evaluation.classifier import (
    DIGIT_SHAPE,
    DIGITS,
    TrainedClassifier,
    check_class_labels,
    check_images,
    class_accuracy,
    train_digit_classifier,
)
from rcgm.evaluation.frechet import gaussian_frechet_distance, moments
from rcgm.evaluation.neighbours import TrainingSet
from rcgm.evaluation.spread import SpreadReference


class DigitReference:
    """The 1,797 real digits, to compare generated ones with. What depends on real digits alone is computed once.

    Args:
        classifier: None trains `train_digit_classifier()`, a few seconds.
    """

    def __init__(self, classifier: TrainedClassifier | None = None) -> None:
        self._classifier = train_digit_classifier() if classifier is None else classifier
        digits = Digits()
        real = digits.samples
        self._moments = moments(self._classifier.classify(real)[1])
        self._training = TrainingSet(real)
        self._spread = SpreadReference(real, digits.labels)

    def evaluate(self, samples: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, float]:
        """Measure generated digits.

        Args:
            samples: floating `[N, 1, 8, 8]`, N >= 2; clamped to [-1, 1], as writing them as images would.
            labels: int64 `[N]`, the classes that were asked for, or None.

        Returns:
            "samples", their number; "frechet_distance" of the classifier's features; "classifier_accuracy", the
            classifier's own on held-out digits; "spread" of the samples over that of real digits, with labels among
            those of one class; the fields of `NeighbourReport` with the prefix "nearest_"; with labels,
            "class_accuracy".

        Raises:
            TypeError, ValueError: an argument is not as above.
        """
        check_images("samples", samples, DIGIT_SHAPE, 2)
        if labels is not None:
            check_class_labels(labels, len(samples), DIGITS)
        samples = samples.detach().cpu().float().clamp(-1.0, 1.0)
        features = self._classifier.classify(samples)[1]
        report = {
            "samples": float(len(samples)),
            "classifier_accuracy": self._classifier.accuracy,
            "frechet_distance": gaussian_frechet_distance(*moments(features), *self._moments),
            **self._spread.report(samples, labels),
        }
        if labels is not None:
            report["class_accuracy"] = class_accuracy(self._classifier, samples, labels)
        report.update({f"nearest_{name}": value for name, value in asdict(self._training.check(samples)).items()})
        return report


def evaluate_digits(
    samples: torch.Tensor,
    labels: torch.Tensor | None = None,
    classifier: TrainedClassifier | None = None,
) -> dict[str, float]:
    """Measure generated digits once; to measure more than once, keep a :class:`DigitReference`.

    Arguments, result and errors are those of :class:`DigitReference` and its ``evaluate``.
    """
    return DigitReference(classifier).evaluate(samples, labels)
