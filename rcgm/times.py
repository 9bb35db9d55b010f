"""How the times ``0 <= r <= t <= 1`` of a training step are drawn, and the knots between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DISTRIBUTIONS = ("uniform", "logit_normal", "beta")
INTERVALS = ("hierarchical", "sorted", "zero", "equal")


@dataclass(frozen=True)
class Times:
    """Times of a batch: ``t`` and ``r`` float32 ``[B]``; in the first ``equal`` samples ``r = t``.

    That their number and place are known on the host lets the target forwards leave them out without a synchronisation.
    The samples of a batch come in random order, so that which of them are first has no meaning.
    """

    t: Tensor
    r: Tensor
    equal: int = 0


@dataclass(frozen=True)
class TimeSampler:
    """Draws ``t`` from a distribution on [0, 1] and ``r`` below it.

    Args:
        distribution: of ``t``. ``"uniform"``; ``"logit_normal"``: ``sigmoid(N(a, b^2))`` (MeanFlow: -0.4, 1.0);
            ``"beta"``: ``Beta(a, b)`` (UCGM).
        a, b: parameters of the distribution; uniform ignores them.
        interval: ``"hierarchical"``: ``r ~ U[0, t]`` (RCGM, equation 8); ``"sorted"``: two draws, the larger is ``t``
            (MeanFlow); ``"zero"``: ``r = 0`` (consistency models); ``"equal"``: ``r = t`` (flow matching).
        equal: fraction of the samples of a batch, rounded to whole samples, in which ``r = t``.

    Raises:
        ValueError: for an unknown name or a value out of range.
    """

    distribution: str = "uniform"
    a: float = 0.0
    b: float = 1.0
    interval: str = "hierarchical"
    equal: float = 0.0

    def __post_init__(self) -> None:
        if self.distribution not in DISTRIBUTIONS:
            raise ValueError(f"distribution must be one of {', '.join(DISTRIBUTIONS)}, got {self.distribution!r}")
        if self.interval not in INTERVALS:
            raise ValueError(f"interval must be one of {', '.join(INTERVALS)}, got {self.interval!r}")
        if not 0 <= self.equal <= 1:
            raise ValueError(f"equal must be a fraction from 0 to 1, got {self.equal!r}")
        if not (math.isfinite(self.a) and math.isfinite(self.b)):
            raise ValueError(f"a and b must be finite, got {self.a!r} and {self.b!r}")
        if self.distribution == "logit_normal" and not self.b > 0:
            raise ValueError(f"b, the standard deviation of logit_normal, must be > 0, got {self.b!r}")
        if self.distribution == "beta" and not (self.a > 0 and self.b > 0):
            raise ValueError(f"a and b of beta must be > 0, got {self.a!r} and {self.b!r}")

    def sample(self, batch: int, *, generator: torch.Generator | None, device: torch.device | str) -> Times:
        """Times for ``batch`` samples, drawn with ``generator`` (which must be of ``device``)."""
        t = self._draw(batch, generator, device)
        if self.interval == "equal":
            return Times(t, t, batch)
        if self.interval == "zero":
            r = torch.zeros_like(t)
        elif self.interval == "hierarchical":
            r = t * torch.rand(batch, generator=generator, device=device)
        else:
            other = self._draw(batch, generator, device)
            t, r = torch.maximum(t, other), torch.minimum(t, other)
        equal = round(self.equal * batch)
        if equal:
            r = torch.cat([t[:equal], r[equal:]])
        return Times(t, r, equal)

    def _draw(self, batch: int, generator: torch.Generator | None, device: torch.device | str) -> Tensor:
        if self.distribution == "uniform":
            return torch.rand(batch, generator=generator, device=device)
        if self.distribution == "logit_normal":
            return torch.sigmoid(self.a + self.b * torch.randn(batch, generator=generator, device=device))
        # X / (X + Y) with X ~ Gamma(a) and Y ~ Gamma(b): the sampler of torch that takes a generator
        shapes = torch.tensor([[self.a], [self.b]], device=device).expand(2, batch).contiguous()
        first, second = torch._standard_gamma(shapes, generator=generator).unbind(0)
        return first / (first + second)


def knots(t: Tensor, r: Tensor, dt: float, order: int) -> Tensor:
    """Knots ``[N+2, B]``: ``t``, ``t_1 = max(t - dt, r)``, then evenly spaced down to ``r`` (math.md section 2).

    With ``order = 0`` they are ``t`` and ``r`` alone.
    """
    if order == 0:
        return torch.stack([t, r])
    first = torch.maximum(t - dt, r)
    share = torch.arange(1, order + 1, dtype=t.dtype, device=t.device)[:, None] / order
    # r + (1 - share) (first - r) rather than first - share (first - r): it ends at r exactly, and never rises
    return torch.cat([t[None], first[None], r + (1 - share) * (first - r)])
