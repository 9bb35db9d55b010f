"""Maximum mean discrepancy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from rcgm.checks import whole_number
from rcgm.evaluation.checks import as_rows, check_same_width

WIDTHS = (0.1, 0.25, 0.5, 1.0, 2.0)


def squared_mmd(x: torch.Tensor, y: torch.Tensor, widths: Sequence[float] = WIDTHS, chunk: int = 256) -> float:
    """Squared maximum mean discrepancy between two sets of samples.

        MMD^2 = mean_ij k(x_i, x_j) + mean_ij k(y_i, y_j) - 2 mean_ij k(x_i, y_j)
        k(a, b) = mean over widths w of exp(-|a - b|^2 / (2 w^2))

    This is the V-statistic (the pairs i = j count), so it is never negative, zero for equal sets, and biased upwards:
    for two sets of n samples of one distribution it is on average (2/n)(1 - E k), which is the floor to read a result
    against. Computed in float64, on the device of x.

    Source: Gretton et al., A Kernel Two-Sample Test, JMLR 2012, eq. 5.

    Args:
        x: floating `[N, ...]`, flattened to `[N, D]`.
        y: floating `[M, ...]`, the same D.
        widths: of the kernels, in the units of the samples, each above 0.
        chunk: rows of x compared with all of y at a time; memory is about `2 * chunk * M` float64 values.

    Raises:
        TypeError: x or y is no floating tensor.
        ValueError: x or y is empty, of different D, or not finite; widths is empty or holds one that is not above 0.
    """
    return KernelReference(y, widths, chunk).squared_mmd(x)


class KernelReference:
    """Samples to compare others with by :func:`squared_mmd`; the sum over pairs of them alone is computed once.

    Args:
        y: floating `[M, ...]`.
        widths, chunk: see :func:`squared_mmd`.

    Raises:
        TypeError, ValueError: see :func:`squared_mmd`.
    """

    def __init__(self, y: torch.Tensor, widths: Sequence[float] = WIDTHS, chunk: int = 256) -> None:
        self._widths = tuple(widths)
        if not self._widths or not all(math.isfinite(width) and width > 0 for width in self._widths):
            raise ValueError(f"widths must be one or more finite numbers above 0, got {self._widths}")
        whole_number("chunk", chunk)
        self._chunk = chunk
        self._rows = as_rows("y", y)
        self._within: float | None = None

    def squared_mmd(self, x: torch.Tensor) -> float:
        """Squared maximum mean discrepancy between `x`, floating `[N, ...]`, and the reference, on the device of x."""
        rows = as_rows("x", x)
        check_same_width("x", rows, "y", self._rows)
        self._rows = self._rows.to(rows.device)
        if self._within is None:
            self._within = self._mean_kernel(self._rows, self._rows)
        within = self._mean_kernel(rows, rows) + self._within
        # The kernel is positive definite, so below zero there is rounding only.
        return max(0.0, within - 2.0 * self._mean_kernel(rows, self._rows))

    def _mean_kernel(self, a: torch.Tensor, b: torch.Tensor) -> float:
        total = torch.zeros((), dtype=torch.float64, device=a.device)
        for rows in a.split(self._chunk):
            # Exact differences: the expansion |a|^2 + |b|^2 - 2ab would cancel for the near pairs, which weigh most.
            squared = torch.cdist(rows, b, compute_mode="donot_use_mm_for_euclid_dist").square_()
            for width in self._widths:
                total += (squared * (-0.5 / width**2)).exp_().sum()
        return float(total) / (len(a) * len(b) * len(self._widths))
