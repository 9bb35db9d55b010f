"""Embeddings of times and classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rcgm.checks import positive_float, whole_number
from rcgm.models.precision import FullPrecisionLinear, full_precision

__all__ = ["LabelEmbedder", "TimeEmbedder", "sinusoidal_embedding"]


def sinusoidal_embedding(
    time: Tensor,
    size: int,
    *,
    scale: float = 1.0,
    max_period: float = 10_000.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Cosines and sines of ``scale * time`` at ``size / 2`` frequencies, geometric from 1 to about ``1 / max_period``.

    All arithmetic is done in ``dtype``, autocast or not: in bfloat16 times closer than 1/256 can be the same number.

    Args:
        time: ``[B]``, any floating dtype.
        size: number of features, even and positive; the first half are cosines.
        scale: positive, multiplies the time.
        max_period: above 1.
        dtype: ``torch.float32`` or ``torch.float64``.

    Returns:
        ``[B, size]`` in ``dtype``.

    Raises:
        TypeError: ``dtype`` is neither of the two, or ``size`` is no int.
        ValueError: ``time`` is not one-dimensional, or a number is out of its range.

    Source: Vaswani et al. 2017, section 3.5, in the order of features that DiT publishes.
    """
    whole_number("size", size)
    if size % 2:
        raise ValueError(f"size must be even, half cosines and half sines, got {size}")
    positive_float("scale", scale)
    if max_period <= 1:
        raise ValueError(f"max_period must be above 1, got {max_period}")
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    if time.ndim != 1:
        raise ValueError(f"time must have shape [B], got {list(time.shape)}")
    half = size // 2
    exponents = torch.arange(half, device=time.device, dtype=dtype) / half
    phases = (scale * time.to(dtype))[:, None] * torch.exp(-math.log(max_period) * exponents)
    return torch.cat([phases.cos(), phases.sin()], dim=1)


class TimeEmbedder(nn.Module):
    """A time or an interval as a vector: sinusoids, then a two-layer MLP, in float32 at least (see ``precision.py``).

    Args:
        hidden_size: width of the result.
        scale: multiplies the time before the sinusoids.
        frequency_size: number of sinusoids, even.

    Raises:
        TypeError: a size is no int, or the scale no number.
        ValueError: a number is out of its range.

    Source: DiT, section 3.2.
    """

    def __init__(self, hidden_size: int, *, scale: float = 10.0, frequency_size: int = 256) -> None:
        super().__init__()
        whole_number("hidden_size", hidden_size)
        whole_number("frequency_size", frequency_size)
        if frequency_size % 2:
            raise ValueError(f"frequency_size must be even, half cosines and half sines, got {frequency_size}")
        self.scale = positive_float("scale", scale)
        self.frequency_size = frequency_size
        self.mlp = nn.Sequential(
            FullPrecisionLinear(frequency_size, hidden_size), nn.SiLU(), FullPrecisionLinear(hidden_size, hidden_size)
        )

    def forward(self, time: Tensor) -> Tensor:
        """``time`` ``[B]`` to ``[B, hidden_size]``, float64 if the weights are and float32 otherwise."""
        dtype = full_precision(self.mlp[0].weight.dtype)
        return self.mlp(sinusoidal_embedding(time, self.frequency_size, scale=self.scale, dtype=dtype))


class LabelEmbedder(nn.Module):
    """A class index as a vector. Index ``num_classes`` is the null class, the condition of unconditional generation.

    Dropping labels is the training objective's business. Indices are not checked against their range, which would
    stop the host for the device: one that is out of it fails inside the embedding, as any index does.

    Args:
        num_classes: number of real classes; the table has one row more.
        hidden_size: width of the result.

    Raises:
        TypeError: a size is no int.
        ValueError: a size is not positive.
    """

    def __init__(self, num_classes: int, hidden_size: int) -> None:
        super().__init__()
        self.num_classes = whole_number("num_classes", num_classes)
        self.embedding_table = nn.Embedding(num_classes + 1, whole_number("hidden_size", hidden_size))

    def forward(self, labels: Tensor) -> Tensor:
        """``labels`` ``[B]``, int32 or int64 in ``0..num_classes``, to ``[B, hidden_size]`` in the weights' dtype."""
        return self.embedding_table(labels)
