"""How far apart two ways to compute one thing may be: a bound that follows from the number format."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDINGS = 1_000
"""Of the forwards of a small network (some hundred products and sums each) and of the formulas around them."""


def rounding_bound(
    dtype: torch.dtype = torch.float64, *, roundings: int = ROUNDINGS, size: float = 1.0, divided_by: float = 1.0
) -> float:
    """What ``roundings`` roundings of values as large as ``size`` can add up to.

    Each adds at most half an eps of the format times the value. This is the worst case, in which all add up, so that
    it holds for any order of the sums: on any processor and with any number of threads.

    Args:
        dtype: the format.
        roundings: their number, at most.
        size: of the largest value that is rounded.
        divided_by: the shortest step that a difference of rounded values is divided by.
    """
    return roundings * torch.finfo(dtype).eps / 2 * size / divided_by


def assert_rounded(
    actual: Tensor,
    expected: Tensor,
    *,
    roundings: int = ROUNDINGS,
    divided_by: float = 1.0,
    dtype: torch.dtype | None = None,
) -> None:
    """Assert that ``actual`` and ``expected`` are no more than ``roundings`` roundings apart (``rounding_bound``).

    The size of what is rounded is that of the largest expected element, or 1 where all are smaller. ``dtype`` is the
    format that was computed in, where it is not that of ``expected``.
    """
    size = max(1.0, expected.detach().abs().max().item()) if expected.numel() else 1.0
    bound = rounding_bound(dtype or expected.dtype, roundings=roundings, size=size, divided_by=divided_by)
    torch.testing.assert_close(actual.detach(), expected.detach(), rtol=0, atol=bound)
