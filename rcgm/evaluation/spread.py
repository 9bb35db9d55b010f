"""Diversity: how much samples of the same condition differ from one another."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rcgm.evaluation.checks import as_rows

__all__ = ["SpreadReference", "spread"]


def spread(samples: Tensor, labels: Tensor | None = None) -> float:
    """Root of the mean variance of an element among the samples of one class, over the classes with two or more.

    Few-step models are known to lose it. Beside that of real data it says how much is left; noise adds to it.

    Args:
        samples: floating ``[N, ...]``, N >= 2.
        labels: int64 ``[N]``; None for one class.

    Returns:
        NaN where no class has two samples.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    rows = as_rows("samples", samples, 2)
    if labels is None:
        return float(rows.var(dim=0).mean().sqrt())
    if labels.shape != (len(rows),) or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64 [{len(rows)}], got {labels.dtype} {list(labels.shape)}")
    labels = labels.to(rows.device)
    of_classes = [rows[labels == label] for label in labels.unique()]
    variances = [members.var(dim=0).mean() for members in of_classes if len(members) > 1]
    return float(torch.stack(variances).mean().sqrt()) if variances else float("nan")


class SpreadReference:
    """Real samples, whose spread others are compared with.

    Args:
        real: as ``samples`` of :func:`spread`.
        labels: their classes, or None.
    """

    def __init__(self, real: Tensor, labels: Tensor | None = None) -> None:
        self._of_all = spread(real)
        self._of_classes = None if labels is None else spread(real, labels)

    def report(self, samples: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """``{"spread": ...}``, over that of the real samples, or nothing where there is no such number.

        Among the samples of one class, where both have labels.
        """
        if labels is None or self._of_classes is None:
            labels, of_real = None, self._of_all
        else:
            of_real = self._of_classes
        ratio = spread(samples, labels) / of_real if of_real > 0 else math.nan
        return {} if math.isnan(ratio) else {"spread": ratio}
