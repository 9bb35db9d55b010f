import json
import math

import pytest
import torch

from rcgm.data import Digits
from rcgm.evaluation import class_accuracy, evaluate_digits, nearest_distances, train_digit_classifier
from rcgm.evaluation import classifier as classifier_module
from rcgm.evaluation import report as report_module


@pytest.fixture(scope="module")
def classifier():
    return train_digit_classifier(seed=0)


@pytest.fixture(scope="module")
def digits():
    return Digits()


def test_held_out_accuracy(classifier):
    assert classifier.accuracy >= 0.985


def test_accuracy_is_that_of_digits_it_has_not_seen(digits, monkeypatch):
    seen = []
    distort = classifier_module._distort

    def watch(images, generator):
        seen.append(images)
        return distort(images, generator)

    monkeypatch.setattr(classifier_module, "_distort", watch)
    hasty = train_digit_classifier(seed=0, epochs=1)
    images, labels = digits.samples[hasty.held_out], digits.labels[hasty.held_out]
    assert nearest_distances(images, torch.cat(seen)).min() > 0.0
    assert hasty.accuracy == class_accuracy(hasty, images, labels)
    # A fifth of each class.
    torch.testing.assert_close(
        torch.bincount(labels).double(), torch.bincount(digits.labels) / 5, atol=0.5, rtol=0, check_dtype=False
    )


def test_one_seed_one_classifier(digits):
    state = torch.get_rng_state()
    first, second, other = (train_digit_classifier(seed=seed, epochs=1) for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.accuracy == second.accuracy
    assert torch.equal(first.classify(digits.samples)[1], second.classify(digits.samples)[1])
    assert not torch.equal(first.classify(digits.samples)[1], other.classify(digits.samples)[1])


def test_predictions_and_features(classifier, digits):
    predictions, features = classifier.classify(digits.samples)
    assert predictions.shape == (1797,) and predictions.dtype == torch.int64
    assert features.shape == (1797, 64) and features.dtype == torch.float32
    again, features_again = classifier.classify(digits.samples[:7].double(), chunk=2)
    assert torch.equal(again, predictions[:7])
    torch.testing.assert_close(features_again, features[:7], rtol=1e-4, atol=1e-4)
    logits, penultimate = classifier.model(digits.samples[:7])
    torch.testing.assert_close(logits, classifier.model.head(penultimate))


def test_class_accuracy_counts_the_classes_asked_for(classifier, digits):
    assert class_accuracy(classifier, digits.samples, digits.labels) > 0.985
    assert class_accuracy(classifier, digits.samples, (digits.labels + 1) % 10) < 0.015
    half = digits.labels.clone()
    half[::2] = (half[::2] + 1) % 10
    assert class_accuracy(classifier, digits.samples, half) == pytest.approx(0.5, abs=0.02)


def test_report_of_real_digits(classifier, digits):
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))[:1000]
    report = evaluate_digits(digits.samples[order], digits.labels[order], classifier)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert set(report) == {
        "samples",
        "classifier_accuracy",
        "class_accuracy",
        "frechet_distance",
        "spread",
        "nearest_median_distance",
        "nearest_real_median_distance",
        "nearest_median_ratio",
        "nearest_threshold",
        "nearest_fraction_close",
    }
    assert all(type(value) is float for value in report.values())
    assert report["samples"] == 1000.0 and report["classifier_accuracy"] == classifier.accuracy
    # They are the training data themselves: right in every respect, but copies.
    assert report["class_accuracy"] > 0.98
    assert report["nearest_median_ratio"] == 0.0 and report["nearest_fraction_close"] == 1.0


def test_report_ranks_noise_below_digits(classifier, digits):
    generator = torch.Generator().manual_seed(0)
    labels = digits.labels[:800]
    real = evaluate_digits(digits.samples[:800], labels, classifier)
    blurred = evaluate_digits(
        digits.samples[:800] + 0.5 * torch.randn(800, 1, 8, 8, generator=generator), labels, classifier
    )
    noise = evaluate_digits(torch.randn(800, 1, 8, 8, generator=generator), labels, classifier)
    assert real["frechet_distance"] < blurred["frechet_distance"] < noise["frechet_distance"]
    assert real["class_accuracy"] > blurred["class_accuracy"] > noise["class_accuracy"]
    assert noise["nearest_median_ratio"] > 1.5 and noise["nearest_fraction_close"] == 0.0


def test_report_clamps_and_needs_no_labels(classifier, digits):
    report = evaluate_digits(digits.samples[:100] * 3.0, classifier=classifier)
    assert "class_accuracy" not in report
    assert report == evaluate_digits((digits.samples[:100] * 3.0).clamp(-1, 1), classifier=classifier)


def test_report_trains_its_own_classifier(classifier, digits, monkeypatch):
    # The one that is trained already, for what would train it again.
    monkeypatch.setattr(report_module, "train_digit_classifier", lambda: classifier)
    assert evaluate_digits(digits.samples[:50])["classifier_accuracy"] == classifier.accuracy


IMAGES = torch.zeros(3, 1, 8, 8)
LABELS = torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (IMAGES.long(), LABELS, TypeError, r"must be a floating torch\.Tensor, got torch\.int64"),
        (None, LABELS, TypeError, r"must be a floating torch\.Tensor, got NoneType"),
        (IMAGES[:, 0], LABELS, ValueError, r"must be \[N, 1, 8, 8\] .* got \[3, 8, 8\]"),
        (IMAGES[:0], LABELS[:0], ValueError, r"got \[0, 1, 8, 8\]"),
        (IMAGES * math.nan, LABELS, ValueError, "must be finite, got infinities or NaN"),
        (IMAGES, LABELS.float(), TypeError, r"labels must be a torch\.int64 tensor, got torch\.float32"),
        (IMAGES, [0, 0, 0], TypeError, r"labels must be a torch\.int64 tensor, got list"),
        (IMAGES, LABELS[:2], ValueError, r"labels must be \[3\], one an image, got \[2\]"),
        (IMAGES, LABELS - 1, ValueError, "labels must be from 0 to 9, got -1 to -1"),
        (IMAGES, LABELS + 10, ValueError, "labels must be from 0 to 9, got 10 to 10"),
    ],
)
def test_refuses(classifier, images, labels, error, message):
    with pytest.raises(error, match=message):
        class_accuracy(classifier, images, labels)
    with pytest.raises(error, match=message):
        evaluate_digits(images, labels, classifier)


def test_refuses_other_arguments(classifier):
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        train_digit_classifier(epochs=0)
    with pytest.raises(ValueError, match=r"samples must be \[N, 1, 8, 8\] with N of at least 2, got \[1, 1, 8, 8\]"):
        evaluate_digits(IMAGES[:1], classifier=classifier)
    with pytest.raises(ValueError, match="images must be finite"):
        classifier.classify(IMAGES * math.inf)
