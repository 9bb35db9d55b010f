"""How far apart two ways to compute one thing may be: a bound that follows from the number format."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDINGS = 1_000
"""Of the forwards of a small network (some hundred products and sums each) and of the formulas around them."""


def assert_rounded(actual: Tensor, expected: Tensor, *, roundings: int = ROUNDINGS, divided_by: float = 1.0) -> None:
    """Assert that ``actual`` and ``expected`` are no more than ``roundings`` roundings apart.

    A rounding adds at most half an eps of the format times the size of what is rounded, for which the largest element
    stands, or 1 where all are smaller. The bound is that of the worst case, in which all add up, so that it holds for
    any order of the sums: on any processor and with any number of threads.

    Args:
        actual, expected: of one floating-point dtype and shape.
        roundings: their number, at most.
        divided_by: the shortest step that a difference of rounded values is divided by.
    """
    size = max(1.0, expected.detach().abs().max().item()) if expected.numel() else 1.0
    bound = roundings * torch.finfo(expected.dtype).eps / 2 * size / divided_by
    torch.testing.assert_close(actual.detach(), expected.detach(), rtol=0, atol=bound)
