"""How good generated images are, by the features and class probabilities of a network that judges them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rcgm.checks import whole_number
from rcgm.evaluation.checks import as_rows, check_same_width
from rcgm.evaluation.frechet import gaussian_frechet_distance, moments

SPLITS = 10
NEIGHBOURS = 3


@dataclass(frozen=True)
class Reference:
    """What is known of the real images.

    Args:
        mean: of their features, float64 ``[D]``.
        covariance: of their features, float64 ``[D, D]``.
        features: of some of them, floating ``[M, D]``, for precision and recall; None where they are not known.
    """

    mean: Tensor
    covariance: Tensor
    features: Tensor | None = None

    @staticmethod
    def of(features: Tensor) -> Reference:
        """The reference of the images whose features ``[M, D]`` are given."""
        return Reference(*moments(features), features)


def evaluate_images(features: Tensor, logits: Tensor, reference: Reference) -> dict[str, float]:
    """Compare generated images with real ones.

    Args:
        features: of the generated images, floating ``[N, D]``, on the device to compute on.
        logits: of their classes, floating ``[N, K]``.
        reference: of the real images, by the same network.

    Returns:
        "samples", their number; "frechet_distance" (FID, where the network is Inception); "inception_score" and
        "inception_score_deviation", over 10 parts; "precision" and "recall" by 3 neighbours where ``reference`` has
        features, and "reference_samples", their number. All of them depend on the numbers of images.

    Raises:
        TypeError, ValueError: fewer than 10 images, widths that differ, or values that are not finite.
    """
    report = {
        "samples": float(len(features)),
        "frechet_distance": gaussian_frechet_distance(*moments(features), reference.mean, reference.covariance),
    }
    report["inception_score"], report["inception_score_deviation"] = inception_score(logits)
    if reference.features is not None:
        real = reference.features.to(features.device)
        report["reference_samples"] = float(len(real))
        report["precision"], report["recall"] = precision_and_recall(features, real)
    return report


def inception_score(logits: Tensor, splits: int = SPLITS) -> tuple[float, float]:
    """``exp(E[KL(p(y|x) || p(y))])``: mean and standard deviation over ``splits`` consecutive parts of the samples.

    Args:
        logits: floating ``[N, K]``, N of at least ``splits``. Arithmetic is float64.
        splits: at least 1; 10 in the paper.

    Raises:
        TypeError, ValueError: an argument is not as above, or values that are not finite.

    Source: Salimans et al., Improved Techniques for Training GANs, NeurIPS 2016, section 4.
    """
    if splits < 1:
        raise ValueError(f"splits must be at least 1, got {splits}")
    log_p = as_rows("logits", logits, splits).log_softmax(dim=1)
    scores = []
    for part in log_p.tensor_split(splits):
        log_mean = part.logsumexp(dim=0) - torch.tensor(float(len(part)), dtype=part.dtype).log()
        scores.append((part.exp() * (part - log_mean)).sum(dim=1).mean().exp())
    scores = torch.stack(scores)
    return float(scores.mean()), float(scores.std(correction=0))


def precision_and_recall(
    samples: Tensor, reference: Tensor, neighbours: int = NEIGHBOURS, chunk: int = 1024
) -> tuple[float, float]:
    """Share of the samples on the manifold of the reference, and of the reference on that of the samples.

    The manifold of a set is the union of balls around its members, each as large as the distance to its
    ``neighbours``-th nearest other one.

    Args:
        samples: floating ``[N, D]``, N above ``neighbours``; the work is done on its device, in float64.
        reference: floating ``[M, D]``, M above ``neighbours``.
        neighbours: at least 1; 3 in the paper.
        chunk: rows compared at a time; memory is ``chunk * max(N, M)`` float64 values.

    Raises:
        TypeError, ValueError: an argument is not as above, or values that are not finite.

    Source: Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative Models, NeurIPS 2019,
    equations 1 and 2.
    """
    whole_number("chunk", chunk)
    if neighbours < 1:
        raise ValueError(f"neighbours must be at least 1, got {neighbours}")
    generated = as_rows("samples", samples, neighbours + 1)
    real = as_rows("reference", reference, neighbours + 1).to(generated.device)
    check_same_width("samples", generated, "reference", real)
    return _share_inside(generated, real, neighbours, chunk), _share_inside(real, generated, neighbours, chunk)


def _share_inside(points: Tensor, members: Tensor, neighbours: int, chunk: int) -> float:
    radii = []
    for start in range(0, len(members), chunk):
        squared = _squared_distances(members[start : start + chunk], members)
        squared.diagonal(start).fill_(torch.inf)  # not its own neighbour
        radii.append(squared.kthvalue(neighbours, dim=1).values)
    radius = torch.cat(radii)
    inside = [(_squared_distances(part, members) <= radius).any(dim=1) for part in points.split(chunk)]
    return float(torch.cat(inside).double().mean())


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    # Direct differences would need [len(a), len(b), D]. In float64 what cancels here is far below any distance that
    # separates two images; a copy of a member, which has to be inside, is helped by the clamp.
    squared = a.square().sum(dim=1, keepdim=True) + b.square().sum(dim=1) - 2.0 * a @ b.T
    return squared.clamp_(min=0.0)
