"""How closely results have to agree."""

from __future__ import annotations

import torch
from torch import Tensor

from rcgm_kernels.layout import batched


def spacing(values: Tensor, dtype: torch.dtype) -> Tensor:
    """One unit in the last place of ``dtype`` at ``values`` (float64)."""
    information = torch.finfo(dtype)
    _, exponent = torch.frexp(values.abs().clamp(min=information.smallest_normal))
    return torch.ldexp(torch.full_like(values, information.eps), exponent - 1)


def assert_loss_close(actual: Tensor, expected: Tensor, relative: Tensor | float = 1e-5) -> None:
    """Within a share of the expected loss; ``relative`` is a number, or one for each sample.

    What is below the smallest normal number of the dtype does not count.
    """
    relative = torch.as_tensor(relative)
    relative = relative if actual.ndim or not relative.numel() else relative.amax()
    allowed = (relative * expected.abs()).clamp(min=torch.finfo(actual.dtype).smallest_normal)
    wrong = ~_equal_or_within(actual.double(), expected, allowed)
    assert not wrong.any(), f"{actual[wrong].tolist()} instead of {expected[wrong].tolist()}"


def assert_gradient_close(actual: Tensor, expected: Tensor, share: Tensor | float = 1e-4) -> None:
    """Within one unit in the last place, or ``share`` (a number, or ``[B]``) of the sample's largest element.

    What is below 1e-36 does not count: on the way to it float32 has run out of exponents.
    """
    assert actual.shape == expected.shape
    if not expected.numel():
        return
    largest = expected.nan_to_num(0).abs().reshape(len(expected), -1).amax(1)
    allowed = torch.maximum(spacing(expected, actual.dtype), batched((largest * share).clamp(min=1e-36), expected))
    wrong = ~_equal_or_within(actual.double(), expected, allowed)
    assert not wrong.any(), (
        f"{int(wrong.sum())} of {wrong.numel()} elements are wrong, the first at {wrong.nonzero()[0].tolist()}: "
        f"{actual[wrong][0].item()} instead of {expected[wrong][0].item()}, {allowed[wrong][0].item()} allowed"
    )


def _equal_or_within(actual: Tensor, expected: Tensor, allowed: Tensor) -> Tensor:
    return (actual == expected) | ((actual - expected).abs() <= allowed) | (actual.isnan() & expected.isnan())
