import numpy as np
import pytest
import torch
from scipy import linalg

from rcgm.evaluation import frechet_distance, gaussian_frechet_distance, moments


def spread(size, rank=None, seed=0):
    """A random covariance `[size, size]` of the given rank."""
    factor = torch.randn(size, rank or size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return factor @ factor.T


def mean(size, seed):
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_diagonal_covariances_have_a_closed_form():
    a, b = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([16.0, 4.0, 0.25])
    mean_a, mean_b = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([2.0, 1.0, 0.0])
    expected = 8.0 + float((a.sqrt() - b.sqrt()).square().sum())
    assert gaussian_frechet_distance(mean_a, a.diag(), mean_b, b.diag()) == pytest.approx(expected, rel=1e-12)


def test_covariances_that_do_not_commute():
    a, b = spread(12, seed=0), spread(12, seed=1)
    root = linalg.sqrtm(a.numpy() @ b.numpy())
    expected = float((mean(12, 2) - mean(12, 3)).square().sum() + a.trace() + b.trace()) - 2 * float(
        np.trace(root).real
    )
    assert gaussian_frechet_distance(mean(12, 2), a, mean(12, 3), b) == pytest.approx(expected, rel=1e-9)


def test_a_rotation_of_both_changes_nothing():
    turn = torch.linalg.qr(spread(6, seed=4)).Q
    a, b = spread(6, seed=0), spread(6, seed=1)
    straight = gaussian_frechet_distance(mean(6, 2), a, mean(6, 3), b)
    turned = gaussian_frechet_distance(turn @ mean(6, 2), turn @ a @ turn.T, turn @ mean(6, 3), turn @ b @ turn.T)
    assert turned == pytest.approx(straight, rel=1e-9)


def test_rank_deficient_covariances():
    flat = spread(20, rank=3)
    zero = torch.zeros(20, dtype=torch.float64)
    assert gaussian_frechet_distance(zero, flat, zero, flat) == pytest.approx(0.0, abs=1e-11)
    assert gaussian_frechet_distance(zero, flat, zero, 4 * flat) == pytest.approx(float(flat.trace()), rel=1e-9)
    # Orthogonal planes share nothing: the traces add up.
    turn = torch.linalg.qr(spread(4, seed=4)).Q
    a = turn @ torch.tensor([2.0, 3.0, 0.0, 0.0], dtype=torch.float64).diag() @ turn.T
    b = turn @ torch.tensor([0.0, 0.0, 5.0, 7.0], dtype=torch.float64).diag() @ turn.T
    assert gaussian_frechet_distance(zero[:4], a, zero[:4], b) == pytest.approx(17.0, rel=1e-11)


def test_points_without_spread():
    zero = torch.zeros(3, 3)
    distance = gaussian_frechet_distance(torch.zeros(3), zero, torch.tensor([1.0, 2.0, 2.0]), zero)
    assert distance == pytest.approx(9.0)


def test_features_fewer_than_their_width():
    features = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(features, features) == pytest.approx(0.0, abs=1e-10)
    assert frechet_distance(features, features + 0.5) == pytest.approx(16.0, rel=1e-5)


def test_features_of_known_gaussians():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50_000, 4, generator=generator)
    y = 2.0 * torch.randn(50_000, 4, generator=generator) + 1.0
    assert frechet_distance(x, y) == pytest.approx(4.0 * (1.0 + 1.0), rel=0.02)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-9)


def test_moments_are_those_of_numpy():
    features = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    centre, covariance = moments(features)
    assert covariance.dtype == torch.float64
    np.testing.assert_allclose(centre, features.double().numpy().mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(features.double().numpy(), rowvar=False), rtol=1e-10)


@pytest.mark.parametrize(
    ("features", "reference", "error", "message"),
    [
        (torch.zeros(1, 2), torch.zeros(5, 2), ValueError, r"features must be .* at least 2, got \[1, 2\]"),
        (
            torch.zeros(5, 2),
            torch.zeros(5, 3),
            ValueError,
            "features must have as many values a sample as reference, 3, got 2",
        ),
        (
            torch.zeros(5, 2),
            torch.full((5, 2), torch.inf),
            ValueError,
            "reference must be finite, got 10 of 10 values that are not",
        ),
        (
            torch.zeros(5, 2).int(),
            torch.zeros(5, 2),
            TypeError,
            "features must be a floating torch.Tensor, got torch.int32",
        ),
    ],
)
def test_refuses_features(features, reference, error, message):
    with pytest.raises(error, match=message):
        frechet_distance(features, reference)


@pytest.mark.parametrize(
    ("position", "tensor", "message"),
    [
        (2, torch.zeros(4), r"mean_b must be \[3\], got \[4\]"),
        (1, torch.eye(4), r"covariance_a must be \[3, 3\], got \[4, 4\]"),
        (3, torch.eye(3) * torch.nan, "covariance_b must be finite"),
        (3, torch.diag(torch.tensor([1.0, -1.0, 1.0])), "covariance_b must be symmetric, without negative"),
        (1, torch.eye(3) + torch.tensor([0.0, 0.0, 1.0]), "covariance_a must be symmetric"),
    ],
)
def test_refuses_moments(position, tensor, message):
    arguments = [torch.zeros(3), torch.eye(3), torch.zeros(3), torch.eye(3)]
    arguments[position] = tensor
    with pytest.raises(ValueError, match=message):
        gaussian_frechet_distance(*arguments)
