"""Diversity of samples of one condition."""

import math

import pytest
import torch

from rcgm.data import Digits
from rcgm.evaluation import DigitReference, ImageReference, evaluate_points, spread, train_digit_classifier


def test_by_definition():
    samples = torch.tensor([[0.0, 0.0], [2.0, 4.0], [5.0, 5.0], [5.0, 7.0], [9.0, 9.0]])
    labels = torch.tensor([3, 3, 8, 8, 5])
    # variances: (2, 8) of class 3 and (0, 2) of class 8; class 5 has one sample
    assert spread(samples, labels) == pytest.approx(math.sqrt((5.0 + 1.0) / 2))
    assert spread(samples) == pytest.approx(math.sqrt((samples[:, 0].var() + samples[:, 1].var()) / 2))
    assert math.isnan(spread(samples[:2], torch.tensor([0, 1])))


def test_samples_that_are_all_alike_have_none():
    same = torch.full((6, 1, 8, 8), 0.3)
    assert spread(same) == 0 and spread(same, torch.arange(6) % 2) == 0


@pytest.mark.parametrize(
    "labels", [torch.zeros(3), torch.zeros(2, dtype=torch.int64), torch.zeros(3, 1, dtype=torch.int64)]
)
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(ValueError, match=r"labels must be int64 \[3\], got"):
        spread(torch.zeros(3, 2), labels)


def test_reports_compare_with_real_data():
    digits = Digits()
    real, labels = digits.samples, digits.labels
    reference = DigitReference(train_digit_classifier(epochs=1))
    assert reference.evaluate(real, labels)["spread"] == pytest.approx(1)
    assert reference.evaluate(real)["spread"] == pytest.approx(1)
    means = torch.stack([real[labels == label].mean(0) for label in range(10)])
    # samples that are the mean of their class have no spread of their own, and all that of the classes
    blurred = reference.evaluate(means[labels], labels)
    assert blurred["spread"] < 1e-6 < 0.3 < reference.evaluate(means[labels])["spread"] < 0.9
    images = ImageReference(real, labels, 10)
    assert images.evaluate(real, labels)["spread"] == pytest.approx(1)
    assert images.evaluate(means[labels], labels)["spread"] < 1e-6
    assert "spread" not in images.evaluate(real[:2], torch.tensor([0, 1]))  # no class has two
    points = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    assert evaluate_points(points / 2, points)["spread"] == pytest.approx(0.5)
    assert "spread" not in evaluate_points(points, torch.zeros(4, 2))
