"""Frechet distance between Gaussians fitted to two sets of features."""

from __future__ import annotations

import torch

from rcgm.evaluation.checks import as_rows, check_same_width


def frechet_distance(features: torch.Tensor, reference: torch.Tensor) -> float:
    """Frechet (2-Wasserstein) distance, squared, between Gaussians fitted to two sets of features.

    Args:
        features: floating `[N, D]`, N >= 2.
        reference: floating `[M, D]`, M >= 2.

    Returns:
        A number of at least 0, computed in float64. It falls as N and M grow: compare at the same N and M only.

    Raises:
        TypeError: no floating tensors.
        ValueError: fewer than 2 rows, different D, or values that are not finite.

    Source: Heusel et al., GANs Trained by a Two Time-Scale Update Rule, NeurIPS 2017, eq. 6.
    """
    check_same_width("features", as_rows("features", features, 2), "reference", as_rows("reference", reference, 2))
    return gaussian_frechet_distance(*moments(features), *moments(reference))


def moments(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean float64 `[D]` and unbiased covariance float64 `[D, D]` of floating features `[N, D]`, on the CPU.

    Raises:
        TypeError: no floating tensor.
        ValueError: N below 2, or values that are not finite.
    """
    rows = as_rows("features", features, 2).cpu()
    mean = rows.mean(dim=0)
    centred = rows - mean
    return mean, centred.T @ centred / (len(rows) - 1)


def gaussian_frechet_distance(
    mean_a: torch.Tensor, covariance_a: torch.Tensor, mean_b: torch.Tensor, covariance_b: torch.Tensor
) -> float:
    """Squared Frechet distance between two Gaussians (Dowson and Landau, 1982):

        |mean_a - mean_b|^2 + tr(A) + tr(B) - 2 tr( (A^1/2 B A^1/2)^1/2 )

    With factors A = U U^T and B = V V^T, the last trace is the sum of the singular values of U^T V. The factors come
    from symmetric eigen-decompositions, without the eigenvalues that are zero to rounding, so covariances of any rank
    will do, and there is no square root of a matrix that is not symmetric.

    Args:
        mean_a, mean_b: floating `[D]`.
        covariance_a, covariance_b: floating `[D, D]`, symmetric and positive semi-definite to rounding.

    Raises:
        ValueError: shapes that do not fit, a covariance that is not symmetric or has an eigenvalue below zero, or
            values that are not finite.
    """
    size = mean_a.numel()
    for name, tensor, shape in (
        ("mean_a", mean_a, (size,)),
        ("mean_b", mean_b, (size,)),
        ("covariance_a", covariance_a, (size, size)),
        ("covariance_b", covariance_b, (size, size)),
    ):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {list(shape)}, got {list(tensor.shape)}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} must be finite, got infinities or NaN")
    covariance_a, covariance_b = covariance_a.double(), covariance_b.double()
    cross = torch.linalg.svdvals(_factor("covariance_a", covariance_a).T @ _factor("covariance_b", covariance_b)).sum()
    shift = (mean_a.double() - mean_b.double()).square().sum()
    distance = shift + covariance_a.trace() + covariance_b.trace() - 2.0 * cross
    return max(0.0, float(distance))


def _factor(name: str, covariance: torch.Tensor) -> torch.Tensor:
    """U `[D, rank]` with covariance = U U^T."""
    values, vectors = torch.linalg.eigh(covariance)
    scale = float(values.abs().max())
    if not torch.allclose(covariance, covariance.T, rtol=0.0, atol=1e-6 * scale) or float(values[0]) < -1e-6 * scale:
        raise ValueError(f"{name} must be symmetric, without negative eigenvalues")
    # Rounding leaves about this much where an eigenvalue is zero; its square root would be no longer small.
    kept = values > scale * len(values) * torch.finfo(torch.float64).eps
    return vectors[:, kept] * values[kept].sqrt()
