"""Measures of images that need nothing but the real images: no network of others, no download."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from rcgm.evaluation.classifier import (
    TrainedClassifier,
    check_class_labels,
    check_images,
    class_accuracy,
    train_classifier,
)
from rcgm.evaluation.components import PrincipalComponents
from rcgm.evaluation.frechet import gaussian_frechet_distance, moments
from rcgm.evaluation.neighbours import TrainingSet
from rcgm.evaluation.spread import SpreadReference
from rcgm.evaluation.thumbnails import thumbnails

COMPONENTS = 64
SIDE, SIDE_OF_CLASSIFIER = 32, 16
"""Longest sides of the images that are compared, and of those that are classified."""

IMAGES_TO_LEARN = 40_000
"""Images that the classifier sees, each of them several times: less than a minute on two cores."""
FEWEST_OF_A_CLASS, FEWEST_IMAGES = 10, 200


class ImageReference:
    """Real images, to compare generated ones with. What depends on real images alone is computed once.

    Images are averaged to at most 32 pixels a side, and 16 for the classifier. So these measures tell wrong classes,
    missing variety, blur and noise, and copies of the training data, but no flaws of fine detail.

    Args:
        images: float32 `[M, C, H, W]` in [-1, 1], M >= 4.
        labels: int64 `[M]` in `[0, classes)`, or None.
        classes: number of them, or None.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """

    def __init__(self, images: Tensor, labels: Tensor | None = None, classes: int | None = None) -> None:
        self._shape = tuple(images.shape[1:])
        check_images("images", images, self._shape, 4)
        small = thumbnails(images, SIDE)
        self._components = PrincipalComponents(small, COMPONENTS)
        coordinates = self._components(small)
        # Every second one, as images often lie in the order of their classes.
        self._moments = moments(coordinates[::2])
        self._held_out = coordinates[1::2]
        self._training = _training_set(coordinates)
        self._spread = SpreadReference(small)
        self._classifier: TrainedClassifier | None = None
        if labels is not None and classes is not None:
            check_class_labels(labels, len(images), classes)
            self._spread = SpreadReference(small, labels)
            if len(images) >= FEWEST_IMAGES and int(labels.bincount(minlength=classes).min()) >= FEWEST_OF_A_CLASS:
                epochs = max(1, min(20, IMAGES_TO_LEARN // len(images)))
                self._classifier = train_classifier(
                    thumbnails(images, SIDE_OF_CLASSIFIER), labels, classes, epochs=epochs
                )

    def evaluate(self, samples: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """Measure generated images.

        Args:
            samples: floating `[N, C, H, W]`, N >= 2; clamped to [-1, 1], as writing them as images would.
            labels: int64 `[N]`, the classes that were asked for, or None.

        Returns:
            "samples", their number; "frechet_distance" to half of the real images, of 64 principal components, and
            "frechet_floor", the same of as many of the other half, if there are so many; "spread" of the samples over
            that of the real images, with labels among those of one class, unless real ones have none; the fields of
            `NeighbourReport` with the prefix "nearest_", of the same components, unless most real images are
            identical. Where each class has 10 real images or more, and there are 200: "classifier_accuracy", that of a
            small classifier on real images that it has not seen, and with labels "class_accuracy", the share of samples
            that it takes for the class asked for.

        Raises:
            TypeError, ValueError: an argument is not as above.
        """
        check_images("samples", samples, self._shape, 2)
        samples = samples.detach().cpu().float().clamp(-1.0, 1.0)
        small = thumbnails(samples, SIDE)
        coordinates = self._components(small)
        report = {
            "samples": float(len(samples)),
            "frechet_distance": gaussian_frechet_distance(*moments(coordinates), *self._moments),
            "frechet_floor": gaussian_frechet_distance(*moments(self._some_held_out(len(samples))), *self._moments),
        }
        report |= self._spread.report(small, labels)
        if self._training is not None:
            nearest = asdict(self._training.check(coordinates))
            report |= {f"nearest_{name}": value for name, value in nearest.items()}
        if self._classifier is not None:
            report["classifier_accuracy"] = self._classifier.accuracy
            if labels is not None:
                check_class_labels(labels, len(samples), self._classifier.classes)
                smaller = thumbnails(samples, SIDE_OF_CLASSIFIER)
                report["class_accuracy"] = class_accuracy(self._classifier, smaller, labels)
        return report

    def _some_held_out(self, count: int) -> Tensor:
        known = len(self._held_out)
        number = min(known, count)
        return self._held_out[torch.arange(number) * known // number]


def _training_set(coordinates: Tensor) -> TrainingSet | None:
    try:
        return TrainingSet(coordinates)
    except ValueError:  # most are identical: how near samples are to them says nothing
        return None
