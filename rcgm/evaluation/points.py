"""How far generated points are from real ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rcgm.evaluation.frechet import gaussian_frechet_distance, moments
from rcgm.evaluation.mmd import WIDTHS, KernelReference
from rcgm.evaluation.spread import SpreadReference


class PointReference:
    """Real points to compare generated ones with. What depends on real points alone is computed once.

    Args:
        reference: floating `[M, D]`, M >= 2, real points.
        held_out: floating `[K, D]`, other real points; they give the floor that a perfect model would reach.
        widths: of the kernels of the MMD.
        limit: at most this many rows of each tensor are used, the first ones. Numbers compare at equal counts only.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """

    def __init__(
        self,
        reference: torch.Tensor,
        held_out: torch.Tensor | None = None,
        widths: Sequence[float] = WIDTHS,
        limit: int = 4000,
    ) -> None:
        if limit < 2:
            raise ValueError(f"limit must be at least 2, got {limit}")
        self._limit = limit
        self._kernels = KernelReference(reference[:limit], widths)
        self._moments = moments(reference[:limit])
        self._spread = SpreadReference(reference[:limit])
        self._held_out = held_out
        self._floors: dict[int, dict[str, float]] = {}

    def evaluate(self, samples: torch.Tensor, *, floor_count: int | None = None) -> dict[str, float]:
        """Measure generated points, floating `[N, D]`, N >= 2.

        Args:
            samples: the points.
            floor_count: held-out points that the floor is taken from; None for as many as there are samples.

        Returns:
            That of :func:`evaluate_points`.

        Raises:
            TypeError, ValueError: an argument is not as above.
        """
        report = {"samples": float(len(samples[: self._limit])), **self._distances(samples)}
        if self._held_out is None:
            return report
        count = len(samples) if floor_count is None else floor_count
        if count not in self._floors:
            self._floors[count] = self._distances(self._held_out[:count])
        return report | {f"{name}_floor": value for name, value in self._floors[count].items()}

    def _distances(self, points: torch.Tensor) -> dict[str, float]:
        points = points[: self._limit]
        return {
            "squared_mmd": self._kernels.squared_mmd(points),
            "frechet_distance": gaussian_frechet_distance(*moments(points), *self._moments),
            **self._spread.report(points),
        }


def evaluate_points(
    samples: torch.Tensor,
    reference: torch.Tensor,
    held_out: torch.Tensor | None = None,
    widths: Sequence[float] = WIDTHS,
    limit: int = 4000,
) -> dict[str, float]:
    """Measure generated points once; to measure more than once, keep a :class:`PointReference`.

    Args:
        samples: floating `[N, D]`, N >= 2.
        reference, held_out, widths, limit: those of :class:`PointReference`.

    Returns:
        "squared_mmd" and "frechet_distance" (of the points themselves) between samples and reference, and the "spread"
        of the samples over that of the reference; with held_out, the same names with "_floor", of held_out instead of
        the samples; "samples", how many were used.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    known = PointReference(reference, held_out, widths, limit)
    return known.evaluate(samples, floor_count=None if held_out is None else len(held_out))
