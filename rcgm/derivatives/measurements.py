"""What is known of a network's rounding noise and curvature along the path, by range of time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

FALL = 2.0
"""Ratio of neighbouring steps of the ladder."""

COMMON = 0.1
"""Weight of the mean over all ranges of time in the estimate for one: that of a few samples."""


@dataclass(frozen=True)
class ErrorModel:
    """Mean squares over the elements of a sample, each ``[*]``: what an evaluation's rounding adds, and the curvatures.

    Args:
        noise: variance of the rounding of one evaluation.
        second, third, fifth: squares of the coefficients of ``s^2``, ``s^3`` and ``s^5`` in the prediction at ``s``
            along the path (``F''/2``, ``F'''/6``, ``F'''''/120``).
    """

    noise: Tensor
    second: Tensor
    third: Tensor
    fifth: Tensor

    def error(self, nodes: Tensor, weights: Tensor) -> Tensor:
        """Expected squared error ``[*]`` of ``sum_i weights[i] F(nodes[i])`` as the slope at 0; both ``[n, *]``."""
        powers = [(weights * nodes**power).sum(0).square() for power in (2, 3, 4, 5)]
        # The fourth derivative is seen by no measured difference; between its neighbours is where it should lie.
        fourth = (self.third * self.fifth).sqrt()
        truncation = powers[0] * self.second + powers[1] * self.third + powers[2] * fourth + powers[3] * self.fifth
        return self.noise * weights.square().sum(0) + truncation


class Measurements(nn.Module):
    """Decayed sums of squared contrasts between differences of a ladder of steps, and the fit to them.

    Let ``D_l`` be the central difference of step ``e_l``, ``e_l = e_0 / 2^l``, ``S_l`` the mean of its two evaluations,
    ``s^2`` the variance of the rounding of one evaluation, and ``c_k`` the coefficients of the path (see
    ``ErrorModel``). Then, in the mean square over elements and samples,

    - ``D_l - 5 D_{l+1} + 4 D_{l+2}``, which cancels the slope and ``c_3``, is ``s^2 (1 + 25 * 4 + 16 * 16)/(2 e_l^2)``
      plus ``(45/64 c_5 e_l^4)^2``: at small steps pure rounding;
    - ``D_l - D_{l+1}`` is ``s^2 (1 + 4)/(2 e_l^2) + (3/4 c_3 e_l^2)^2``;
    - ``S_l - S_{l+1}`` is ``s^2 + (3/4 c_2 e_l^2)^2``.

    So nothing exact is needed to tell noise from curvature: one falls with the step and the other grows.

    Args:
        largest: e_0, the largest step.
        levels: steps of the ladder, at least 3.
        bins: ranges of time, of equal length.
        decay: what the sums keep of themselves at each measurement.
    """

    steps: Tensor
    counts: Tensor
    contrasts: Tensor
    slopes: Tensor
    means: Tensor
    fitted: Tensor

    def __init__(self, largest: float, levels: int, bins: int, decay: float) -> None:
        super().__init__()
        self.bins = bins
        self.decay = decay
        self.calls = 0
        steps = torch.tensor([largest / FALL**level for level in range(levels)], dtype=torch.float64)
        self.register_buffer("steps", steps, persistent=False)
        self.register_buffer("counts", torch.zeros(bins, levels))
        self.register_buffer("contrasts", torch.zeros(bins, levels - 2))
        self.register_buffer("slopes", torch.zeros(bins, levels - 1))
        self.register_buffer("means", torch.zeros(bins, levels - 1))
        self.register_buffer("fitted", torch.zeros(4, bins))

    def get_extra_state(self) -> Tensor:
        """The number of calls, which decides on the host when to measure."""
        return torch.tensor(self.calls)

    def set_extra_state(self, state: Tensor) -> None:
        self.calls = int(state)

    def bins_of(self, t: Tensor) -> Tensor:
        """The range that each time lies in, ``[*]``."""
        return (t * self.bins).long().clamp(0, self.bins - 1)

    def record(self, t: Tensor, room: Tensor, before: Tensor, after: Tensor, weight: Tensor) -> None:
        """Add evaluations at ``-e_l`` and ``e_l``, each ``[levels, B, ...]``; times, room to both sides, weight ``[B]``.

        Samples with an evaluation that is not finite are left out, and so are steps that do not fit the room.
        """
        with torch.autocast(t.device.type, enabled=False):
            dtype = torch.promote_types(before.dtype, torch.float32)
            before, after = before.to(dtype).flatten(2), after.to(dtype).flatten(2)
            steps = self.steps.to(dtype)[:, None]
            slopes, means = (after - before) / (2 * steps[..., None]), (after + before) / 2
            finite = (before.isfinite() & after.isfinite()).all(-1).all(0)
            valid = (room >= steps) & finite
            # a product with a table of zeros and ones, since adding at indices is not deterministic on a GPU
            member = (self.bins_of(t)[None] == torch.arange(self.bins, device=t.device)[:, None])[..., None]

            def add(sums: Tensor, values: Tensor) -> None:
                kept = torch.where(valid[: len(values)], weight * values.square().mean(-1), 0).T[None]
                sums.mul_(self.decay).add_((member * kept).sum(1).to(sums.dtype))

            add(self.counts, torch.ones_like(before[..., :1]))
            add(self.contrasts, slopes[:-2] - 5 * slopes[1:-1] + 4 * slopes[2:])
            add(self.slopes, slopes[:-1] - slopes[1:])
            add(self.means, means[:-1] - means[1:])
            self.fitted.copy_(self._fit())

    def model(self, t: Tensor | None = None) -> ErrorModel:
        """The fit for times ``t`` ``[B]``, or in each range ``[bins]``; 0 everywhere before anything was measured."""
        return ErrorModel(*(self.fitted if t is None else self.fitted[:, self.bins_of(t)]))

    def _fit(self) -> Tensor:
        steps = self.steps.to(self.counts.dtype)
        square = steps**2
        contrast_noise = (1 + 25 * FALL**2 + 16 * FALL**4) / 2
        contrasts, slopes, means = (self._pooled(sums) for sums in (self.contrasts, self.slopes, self.means))
        measured = (self.counts > 0).any(0)

        # Rounding at neighbouring steps is alike in small part only; where it is, at the smallest steps, the estimate
        # falls. The largest step that is not yet above twice the lowest estimate is nearest to where it is used.
        estimates = contrasts / contrast_noise * square[:-2]
        estimates = torch.where(measured[:-2], estimates, torch.inf)
        lowest = estimates.amin(1, keepdim=True)
        noise = _at_first(estimates, estimates <= 2 * lowest, measured[:-2])

        def coefficient(sums: Tensor, rounding: Tensor, shape: Tensor) -> Tensor:
            excess = sums - rounding
            # the smallest step at which curvature shows, and at all larger ones too: chance alone may lift a small one
            known = measured[: sums.shape[1]]
            above = ((excess > rounding) | ~known).int().cumprod(1).bool() & known
            return _at_last(excess.clamp(min=0) / shape.square(), above, known)

        spread = noise[:, None] / square
        second = coefficient(means, noise[:, None].expand_as(means), 0.75 * square[:-1])
        third = coefficient(slopes, spread[:, :-1] * ((1 + FALL**2) / 2), 0.75 * square[:-1])
        fifth = coefficient(contrasts, spread[:, :-2] * contrast_noise, 45 / 64 * square[:-2].square())
        return torch.stack([noise, second, third, fifth])

    def _pooled(self, sums: Tensor) -> Tensor:
        """Means by range and step, drawn a little towards the mean over all ranges."""
        counts = self.counts[:, : sums.shape[1]]
        total = counts.sum(0)
        everywhere = sums.sum(0) / torch.where(total > 0, total, 1)
        return (sums + COMMON * everywhere) / (counts + COMMON)


def ladder_levels(largest: float, smallest: float) -> int:
    """How many steps lead from ``largest`` to ``smallest``, at least 3."""
    return max(3, 1 + math.ceil(math.log(largest / smallest, FALL) - 1e-9))


def _at_first(values: Tensor, chosen: Tensor, known: Tensor) -> Tensor:
    """The value in each row at the first column that is ``chosen``; 0 where none is known."""
    index = torch.arange(values.shape[1], device=values.device)
    first = torch.where(chosen & known, index, values.shape[1]).amin(1)
    found = values.gather(1, first.clamp(max=values.shape[1] - 1)[:, None])[:, 0]
    return torch.where(first < values.shape[1], found, 0)


def _at_last(values: Tensor, chosen: Tensor, known: Tensor) -> Tensor:
    """The value in each row at the last column that is ``chosen``, or at the first known one where none is."""
    index = torch.arange(values.shape[1], device=values.device)
    last = torch.where(chosen, index, -1).amax(1)
    fallback = torch.where(known, index, values.shape[1] - 1).amin()
    found = values.gather(1, torch.where(last >= 0, last, fallback)[:, None])[:, 0]
    return torch.where(known.any(), found, 0)
