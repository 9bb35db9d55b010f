"""Principal components: the directions in which data differ most."""

from __future__ import annotations

import torch
from torch import Tensor

from rcgm.evaluation.checks import as_rows, check_same_width


class PrincipalComponents:
    """Coordinates of samples along the main directions of a reference set (Pearson, 1901).

    Args:
        reference: floating `[M, ...]`, M >= 2, flattened.
        number: of directions; fewer where the reference set has fewer.

    Raises:
        TypeError, ValueError: reference is not as above, or holds values that are not finite.
    """

    def __init__(self, reference: Tensor, number: int) -> None:
        rows = as_rows("reference", reference, 2).cpu()
        self._mean = rows.mean(dim=0)
        centred = rows - self._mean
        values, vectors = torch.linalg.eigh(centred.T @ centred)
        # Rounding leaves about this much of a direction in which nothing differs.
        kept = int((values > values[-1] * len(values) * torch.finfo(torch.float64).eps).sum())
        self._directions = vectors.flip(1)[:, : max(1, min(number, kept))]

    def __call__(self, samples: Tensor) -> Tensor:
        """Coordinates float64 `[N, D]`, D <= number, on the CPU, of floating samples `[N, ...]`.

        Raises:
            TypeError, ValueError: samples are of another size, or hold values that are not finite.
        """
        rows = as_rows("samples", samples).cpu()
        check_same_width("samples", rows, "reference", self._mean[None])
        return (rows - self._mean) @ self._directions
