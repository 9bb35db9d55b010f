"""Diversity: how much samples of the same condition differ from one another."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rcgm.evaluation.checks import as_rows

__all__ = ["reported_spread", "spread"]


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


def reported_spread(samples: Tensor, labels: Tensor | None, of_real: float) -> dict[str, float]:
    """``{"spread": ...}`` of the samples over that of real data, or nothing where there is no such number."""
    ratio = spread(samples, labels) / of_real if of_real > 0 else math.nan
    return {} if math.isnan(ratio) else {"spread": ratio}
