"""Are generated samples copies of the training data?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rcgm.checks import whole_number
from rcgm.evaluation.checks import as_rows, check_same_width


@dataclass(frozen=True)
class NeighbourReport:
    """Distances of generated samples to the training set, beside those of real samples to the rest of it.

    Args:
        median_distance: median over generated samples of the Euclidean distance to the nearest training sample.
        real_median_distance: the same for each training sample and the nearest other one (leave one out).
        median_ratio: the first over the second. About 1 for fresh samples of the same distribution, near 0 for copies.
        threshold: the given quantile of the real distances.
        fraction_close: share of generated samples no farther than the threshold from a training sample. About the given
            quantile for fresh samples, near 1 for copies.
    """

    median_distance: float
    real_median_distance: float
    median_ratio: float
    threshold: float
    fraction_close: float


class TrainingSet:
    """What a model was trained on, to compare samples with. How near it is to itself is computed once.

    Args:
        training: floating `[M, ...]`, M >= 2, flattened.
        quantile: of the real distances, below which a sample counts as close; in (0, 1).
        chunk: rows compared at a time; memory is `chunk * M` float64 values.

    Raises:
        TypeError: no floating tensor.
        ValueError: an argument out of range, values that are not finite, or a training set of which most samples are
            identical, which leaves nothing to compare with.
    """

    def __init__(self, training: torch.Tensor, quantile: float = 0.01, chunk: int = 1024) -> None:
        if not 0.0 < quantile < 1.0:
            raise ValueError(f"quantile must lie in (0, 1), got {quantile}")
        whole_number("chunk", chunk)
        self._chunk = chunk
        self._rows = as_rows("training", training, 2)
        real = nearest_distances(self._rows, self._rows, leave_one_out=True, chunk=chunk)
        self._median = float(real.median())
        if self._median == 0.0:
            raise ValueError("training holds mostly identical samples; distances between them say nothing")
        self._threshold = float(torch.quantile(real, quantile))

    def check(self, samples: torch.Tensor) -> NeighbourReport:
        """Compare how near `samples`, floating `[N, ...]`, are to the training set with how near real data are to one
        another.

        Raises:
            TypeError, ValueError: samples do not match or are not finite.
        """
        queries = as_rows("samples", samples)
        check_same_width("samples", queries, "training", self._rows)
        generated = nearest_distances(queries, self._rows, chunk=self._chunk)
        median = float(generated.median())
        return NeighbourReport(
            median_distance=median,
            real_median_distance=self._median,
            median_ratio=median / self._median,
            threshold=self._threshold,
            # "No farther", so that copies are found where duplicates in the data bring the threshold to zero.
            fraction_close=float((generated <= self._threshold).double().mean()),
        )


def check_neighbours(
    samples: torch.Tensor, training: torch.Tensor, quantile: float = 0.01, chunk: int = 1024
) -> NeighbourReport:
    """Compare samples with a training set once; to do it more than once, keep a :class:`TrainingSet`.

    Args:
        samples: floating `[N, ...]`, what was generated, flattened.
        training, quantile, chunk: those of :class:`TrainingSet`.

    Raises:
        TypeError, ValueError: see :class:`TrainingSet`.
    """
    return TrainingSet(training, quantile, chunk).check(samples)


def nearest_distances(
    samples: torch.Tensor, reference: torch.Tensor, leave_one_out: bool = False, chunk: int = 1024
) -> torch.Tensor:
    """Euclidean distance of each sample to the nearest reference sample: float64 `[N]`, on the device of samples.

    Args:
        samples: floating `[N, ...]`, flattened.
        reference: floating `[M, ...]`, of as many values a sample.
        leave_one_out: samples are reference, row by row, and a row is not its own neighbour; needs N = M >= 2.
        chunk: rows compared at a time; memory is `chunk * M` float64 values.

    Raises:
        TypeError: no floating tensors.
        ValueError: an argument out of range, or tensors that do not match or are not finite.
    """
    whole_number("chunk", chunk)
    queries, rows = as_rows("samples", samples), as_rows("reference", reference)
    rows = rows.to(queries.device)
    check_same_width("samples", queries, "reference", rows)
    if leave_one_out and (len(queries) != len(rows) or len(rows) < 2):
        raise ValueError(
            f"samples holds {len(queries)} rows and reference {len(rows)}; "
            "leave_one_out needs the same number, at least 2"
        )
    squared_norms = rows.square().sum(dim=1)
    nearest = torch.empty(len(queries), dtype=torch.float64, device=queries.device)
    for start in range(0, len(queries), chunk):
        part = queries[start : start + chunk]
        # |b|^2 - 2ab ranks the neighbours of a at the speed of a matrix product. It cancels where a and b are close, so
        # the distance itself is taken from the difference: a copy has exactly 0.
        ranking = squared_norms - 2.0 * part @ rows.T
        if leave_one_out:
            ranking.diagonal(start).fill_(torch.inf)
        nearest[start : start + chunk] = (part - rows[ranking.argmin(dim=1)]).norm(dim=1)
    return nearest
