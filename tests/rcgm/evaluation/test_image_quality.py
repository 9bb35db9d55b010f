import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from rcgm.evaluation import Reference, evaluate_images, inception_score, precision_and_recall


def features(count, width, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator)
    return torch.randn(count, width, generator=generator) @ mixing + shift


def test_the_report_agrees_with_the_formulas_in_plain_numpy():
    samples, real = features(120, 6, 0), features(150, 6, 1, shift=0.7)
    logits = features(120, 5, 2)
    report = evaluate_images(samples, logits, Reference.of(real))

    a, b = samples.double().numpy(), real.double().numpy()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(cov_a @ cov_b)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root.real)
    assert report["frechet_distance"] == pytest.approx(expected, rel=1e-9)

    p = np.exp(logits.double().numpy())
    p /= p.sum(1, keepdims=True)
    scores = [np.exp((part * (np.log(part) - np.log(part.mean(0)))).sum(1).mean()) for part in np.split(p, 10)]
    assert report["inception_score"] == pytest.approx(np.mean(scores), rel=1e-12)
    assert report["inception_score_deviation"] == pytest.approx(np.std(scores), rel=1e-9)

    def inside(points, members):
        between = np.linalg.norm(members[:, None] - members[None], axis=2)
        radius = np.sort(between, axis=1)[:, 3]  # the first is the distance to itself
        return (np.linalg.norm(points[:, None] - members[None], axis=2) <= radius).any(1).mean()

    assert report["precision"] == pytest.approx(inside(a, b))
    assert report["recall"] == pytest.approx(inside(b, a))
    assert 0 < report["precision"] < 1 and 0 < report["recall"] < 1
    assert (report["samples"], report["reference_samples"]) == (120, 150)


def test_without_features_of_the_reference_there_is_no_precision():
    whole = Reference.of(features(40, 3, 0))
    report = evaluate_images(features(20, 3, 1), features(20, 4, 2), Reference(whole.mean, whole.covariance))
    assert set(report) == {"samples", "frechet_distance", "inception_score", "inception_score_deviation"}


def test_inception_score_of_sure_and_even_classes_is_their_number():
    classes = torch.eye(4).repeat(10, 1)
    assert inception_score(classes * 200, splits=5) == pytest.approx((4.0, 0.0))
    assert inception_score(torch.zeros(10, 4)) == pytest.approx((1.0, 0.0))


def test_dropped_modes_cost_recall_and_not_precision():
    real = features(200, 2, 0) * torch.tensor([0.1, 0.1]) + torch.tensor([[0.0, 0.0], [100.0, 0.0]]).repeat(100, 1)
    precision, recall = precision_and_recall(real[::2] + 1e-3, real, chunk=7)
    assert precision == 1.0
    assert recall == pytest.approx(0.5, abs=0.01)


def test_copies_are_inside():
    real = features(50, 64, 0) * 1e3
    assert precision_and_recall(real, real) == (1.0, 1.0)


def test_too_few_images_are_refused():
    few = features(9, 3, 0)
    with pytest.raises(ValueError, match=r"logits must be \[N, \.\.\.\] with N of at least 10, got \[9, 3\]"):
        inception_score(few)
    with pytest.raises(ValueError, match="at least 4"):
        precision_and_recall(few[:3], few)
    with pytest.raises(ValueError, match="samples must have as many values a sample as reference, 2, got 3"):
        precision_and_recall(few, few[:, :2])
