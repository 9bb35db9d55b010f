"""Argument checks that the measures share."""

from __future__ import annotations

import torch


class NotFiniteError(ValueError):
    """Samples that hold an infinity or NaN, as those of a network that diverged do."""


def as_rows(name: str, samples: torch.Tensor, minimum: int = 1) -> torch.Tensor:
    """Return `samples` `[N, ...]` as detached float64 `[N, D]`, on its device.

    Raises:
        TypeError: not a floating tensor.
        ValueError: fewer than `minimum` samples or no elements.
        NotFiniteError: values that are not finite.
    """
    if not isinstance(samples, torch.Tensor) or not samples.is_floating_point():
        got = samples.dtype if isinstance(samples, torch.Tensor) else type(samples).__name__
        raise TypeError(f"{name} must be a floating torch.Tensor, got {got}")
    if samples.ndim < 2 or len(samples) < minimum or samples.numel() == 0:
        raise ValueError(f"{name} must be [N, ...] with N of at least {minimum}, got {list(samples.shape)}")
    bad = int((~torch.isfinite(samples)).sum())
    if bad:
        raise NotFiniteError(f"{name} must be finite, got {bad} of {samples.numel()} values that are not")
    return samples.detach().flatten(1).double()


def check_same_width(name: str, rows: torch.Tensor, other_name: str, other: torch.Tensor) -> None:
    """Raise ValueError unless both `[N, D]` tensors have the same D."""
    if rows.shape[1] != other.shape[1]:
        raise ValueError(
            f"{name} must have as many values a sample as {other_name}, {other.shape[1]}, got {rows.shape[1]}"
        )
