"""Measures of images that need no network of others."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from rcgm.data import Digits
from rcgm.evaluation import ImageReference, PrincipalComponents, thumbnails, train_classifier


@pytest.fixture(scope="module")
def digits():
    data = Digits()
    images = functional.interpolate(data.samples, (20, 20), mode="bilinear")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], data.labels[order]


@pytest.fixture(scope="module")
def reference(digits):
    images, labels = digits
    return ImageReference(images[:1200], labels[:1200], 10)


def test_fresh_real_images_are_near_the_floor_and_in_their_class(digits, reference):
    images, labels = digits
    report = reference.evaluate(images[1200:], labels[1200:])
    assert report["samples"] == 597
    assert report["classifier_accuracy"] > 0.9 and report["class_accuracy"] > 0.9
    # Both are of about 600 real images and 600 others: chance alone makes them differ.
    assert 0.7 < report["frechet_distance"] / report["frechet_floor"] < 1.4
    assert 0.85 < report["nearest_median_ratio"] < 1.15 and report["nearest_fraction_close"] < 0.05


def test_what_is_wrong_shows(digits, reference):
    images, labels = digits
    fresh, asked = images[1200:], labels[1200:]
    right = reference.evaluate(fresh, asked)
    noise = torch.randn(fresh.shape, generator=torch.Generator().manual_seed(0))
    assert reference.evaluate(noise, asked)["frechet_distance"] > 10 * right["frechet_distance"]
    assert reference.evaluate(fresh[asked == 3])["frechet_distance"] > 3 * right["frechet_distance"]
    blurred = functional.avg_pool2d(fresh, 5, stride=1, padding=2, count_include_pad=False)
    assert reference.evaluate(blurred)["frechet_distance"] > 3 * right["frechet_distance"]
    assert reference.evaluate(fresh, (asked + 1) % 10)["class_accuracy"] < 0.1
    copies = reference.evaluate(images[:600])
    assert copies["nearest_median_ratio"] < 1e-6 and copies["nearest_fraction_close"] == 1.0


def test_without_labels_there_is_no_accuracy(digits):
    images, labels = digits
    assert "class_accuracy" not in ImageReference(images[:300]).evaluate(images[300:340])
    few = ImageReference(images[:150], labels[:150], 10)  # too few to train a classifier on
    assert "classifier_accuracy" not in few.evaluate(images[300:340], labels[300:340])
    empty_class = ImageReference(images[:300], labels[:300], 11)
    assert "classifier_accuracy" not in empty_class.evaluate(images[300:340])


def test_identical_real_images_leave_out_what_cannot_be_said():
    images = torch.zeros(20, 3, 8, 8)
    report = ImageReference(images).evaluate(images)
    assert set(report) == {"samples", "frechet_distance", "frechet_floor"}


def test_components_are_those_of_the_singular_vectors():
    rows = torch.randn(50, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows *= torch.arange(1, 13)
    found = PrincipalComponents(rows, 4)(rows)
    centred = (rows - rows.mean(0)).numpy()
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    expected = torch.from_numpy(left[:, :4] * values[:4])
    # The sign of a direction is free. eps of float64 times 50 additions and a condition number of some tens.
    torch.testing.assert_close(found.abs(), expected.abs(), rtol=1e-10, atol=1e-10)
    flat = rows.clone()
    flat[:, 2:] = 1.0
    assert PrincipalComponents(flat, 4)(flat).shape == (50, 2)


@pytest.mark.parametrize(("size", "limit", "expected"), [(28, 32, 28), (28, 16, 14), (256, 32, 32), (33, 32, 16)])
def test_thumbnails(size, limit, expected):
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    small = thumbnails(images, limit)
    assert small.shape == (2, 3, expected, expected)
    if size % expected == 0:
        step = size // expected
        means = images.reshape(2, 3, expected, step, expected, step).mean((3, 5))
        torch.testing.assert_close(small, means)


def test_colours_and_classes_of_ones_own():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    images = 0.3 * torch.randn(300, 3, 12, 12, generator=generator).clamp(-1, 1)
    images[torch.arange(300), labels] += 0.5  # the class is the brightest colour
    classifier = train_classifier(images, labels, 3, epochs=5)
    assert classifier.accuracy > 0.95 and classifier.shape == (3, 12, 12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: ImageReference(x[:3]), ValueError, r"images must be \[N, 1, 8, 8\] with N of at least 4, got \[3,"),
        (lambda x: ImageReference(x, torch.full((20,), 7), 3), ValueError, "labels must be from 0 to 2, got 7 to 7"),
        (lambda x: ImageReference(x).evaluate(x[:, :, :4]), ValueError, r"samples must be \[N, 1, 8, 8\]"),
        (lambda x: ImageReference(x).evaluate(x / 0), ValueError, "samples must be finite"),
        (lambda x: train_classifier(x, torch.zeros(20).long(), 1), ValueError, "must be enough to train on 64"),
        (lambda x: train_classifier(x, torch.zeros(20), 1), TypeError, r"labels must be a torch\.int64 tensor"),
    ],
)
def test_refuses(call, error, message):
    images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(error, match=message):
        call(images)
