"""Mean and variance by channel of more numbers than fit into memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ChannelStatistics:
    """Count, mean and sum of squared deviations, float64 `[C]`, merged by the formula of Chan, Golub and LeVeque
    (1979), which loses no digits however many parts there are.

    Where the numbers are means of Gaussians, the variances of these are part of the variance of what is drawn.
    """

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def empty(cls, channels: int) -> ChannelStatistics:
        """Of no numbers."""
        return cls(0, torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64))

    @classmethod
    def of(cls, latents: Tensor, std: Tensor | None = None) -> ChannelStatistics:
        """Of latents `[B, C, H, W]`, or of draws from Gaussians with these means and `std` of the same shape."""
        values = latents.double()
        count = values.numel() // values.shape[1]
        mean = values.mean(dim=(0, 2, 3))
        squares = (values - mean[:, None, None]).square().sum(dim=(0, 2, 3))
        if std is not None:
            squares = squares + std.double().square().sum(dim=(0, 2, 3))
        return cls(count, mean, squares)

    def merged(self, other: ChannelStatistics) -> ChannelStatistics:
        """Of both sets of numbers."""
        count = self.count + other.count
        if count == 0:
            return self
        gap = other.mean - self.mean
        return ChannelStatistics(
            count,
            self.mean + gap * (other.count / count),
            self.squares + other.squares + gap.square() * (self.count * other.count / count),
        )

    @property
    def std(self) -> Tensor:
        """Standard deviation, float64 `[C]`."""
        return (self.squares / self.count).sqrt()

    def to_plain(self) -> dict[str, Any]:
        """In numbers that JSON keeps exactly."""
        return {"count": self.count, "mean": self.mean.tolist(), "squares": self.squares.tolist()}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> ChannelStatistics:
        """Undo `to_plain`."""
        mean, squares = (torch.tensor(values[name], dtype=torch.float64) for name in ("mean", "squares"))
        return cls(int(values["count"]), mean, squares)
