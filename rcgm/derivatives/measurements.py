"""Estimates of a network's rounding noise and curvature along the path, by range of time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.distributed.shares import Share

FALL = 2.0
"""Ratio of neighbouring steps of the ladder."""

COMMON = 0.1
"""Weight of the mean over all ranges in the estimate for one range: that of a few samples."""


@dataclass(frozen=True)
class ErrorModel:
    """Mean squares over the elements of a sample, each ``[*]``: of the rounding of an evaluation, and the curvatures.

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
        """Expected squared error ``[*]`` of ``sum_i weights[i] F(nodes[i])`` as derivative at 0; both ``[n, *]``."""
        powers = [(weights * nodes**power).sum(0).square() for power in (2, 3, 4, 5)]
        # No measured difference shows the fourth derivative; it is taken between its neighbours.
        fourth = (self.third * self.fifth).sqrt()
        truncation = powers[0] * self.second + powers[1] * self.third + powers[2] * fourth + powers[3] * self.fifth
        return self.noise * weights.square().sum(0) + truncation


class Measurements(nn.Module):
    """Decayed sums of squared contrasts between differences of a ladder of steps, and the fit to them.

    Let ``D_l`` be the central difference of step ``e_l``, ``e_l = e_0 / 2^l``, ``S_l`` the mean of its two evaluations,
    ``s^2`` the variance of the rounding of one evaluation, and ``c_k`` the coefficients of the path (see
    ``ErrorModel``). Then, in the mean square over elements and samples,

    - ``D_l - 5 D_{l+1} + 4 D_{l+2}``, which cancels the derivative and ``c_3``, is ``s^2 (1 + 25 * 4 + 16 * 16)/(2
      e_l^2)`` plus ``(45/64 c_5 e_l^4)^2``: at small steps pure rounding;
    - ``D_l - D_{l+1}`` is ``s^2 (1 + 4)/(2 e_l^2) + (3/4 c_3 e_l^2)^2``;
    - ``S_l - S_{l+1}`` is ``s^2 + (3/4 c_2 e_l^2)^2``.

    So noise and curvature can be told apart without an exact derivative: one falls with the step, the other grows.

    Args:
        largest: e_0, the largest step.
        levels: steps of the ladder, at least 3.
        bins: ranges of time, of equal length.
        decay: what the sums keep of themselves at each measurement.
    """

    steps: Tensor
    counts: Tensor
    contrasts: Tensor
    differences: Tensor
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
        self.register_buffer("differences", torch.zeros(bins, levels - 1))
        self.register_buffer("means", torch.zeros(bins, levels - 1))
        self.register_buffer("fitted", torch.zeros(4, bins))
        self.register_load_state_dict_pre_hook(_read_old_name)

    def get_extra_state(self) -> Tensor:
        """The number of calls, which decides on the host when to measure."""
        return torch.tensor(self.calls)

    def set_extra_state(self, state: Tensor) -> None:
        self.calls = int(state)

    def bins_of(self, t: Tensor) -> Tensor:
        """The range that each time lies in, ``[*]``."""
        return (t * self.bins).long().clamp(0, self.bins - 1)

    def record(
        self, t: Tensor, room: Tensor, before: Tensor, after: Tensor, weight: Tensor, share: Share | None = None
    ) -> None:
        """Add evaluations at ``-e_l`` and ``e_l``, each ``[levels, B, ...]``.

        Times, the room on both sides and the weight of the samples are ``[B]``. Samples with an evaluation that is not
        finite are left out, and so are steps that do not fit into the room. With a ``share`` of a batch, the
        measurements of the other processes are added.
        """
        dtype = torch.promote_types(before.dtype, torch.float32)
        before, after = before.to(dtype).flatten(2), after.to(dtype).flatten(2)
        steps = self.steps.to(dtype)[:, None]
        differences, means = (after - before) / (2 * steps[..., None]), (after + before) / 2
        finite = (before.isfinite() & after.isfinite()).all(-1).all(0)
        valid = (room >= steps) & finite
        # a product with a table of zeros and ones, since adding at indices is not deterministic on a GPU
        member = (self.bins_of(t)[None] == torch.arange(self.bins, device=t.device)[:, None])[..., None]

        def summed(values: Tensor) -> Tensor:
            squares = (weight * values.square().mean(-1)).to(self.counts.dtype)
            # an overflow would stay in the sum for good
            kept = torch.where(valid[: len(values)] & squares.isfinite(), squares, 0).T[None]
            return (member * kept).sum(1)

        sums = [self.counts, self.contrasts, self.differences, self.means]
        added = [
            summed(torch.ones_like(before[..., :1])),
            summed(differences[:-2] - 5 * differences[1:-1] + 4 * differences[2:]),
            summed(differences[:-1] - differences[1:]),
            summed(means[:-1] - means[1:]),
        ]
        if share is not None:
            whole = share.add_up_(torch.cat(added, 1))
            added = list(whole.split([part.shape[1] for part in added], 1))
        for known, new in zip(sums, added, strict=True):
            known.mul_(self.decay).add_(new)
        self.fitted.copy_(self._fit())

    def model(self, t: Tensor | None = None) -> ErrorModel:
        """The fit for times ``t`` ``[B]``, or in each range ``[bins]``; 0 everywhere before anything was measured."""
        return ErrorModel(*(self.fitted if t is None else self.fitted[:, self.bins_of(t)]))

    def _fit(self) -> Tensor:
        """The fields of the error model, ``[4, bins]``: of each range on its own, drawn a little to that of all."""
        # the last row is all ranges together
        counts, contrasts, differences, means = (
            torch.cat([sums, sums.sum(0, keepdim=True)])
            for sums in (self.counts, self.contrasts, self.differences, self.means)
        )
        # Near the ends of time few samples have room for large steps, and they are not like the others.
        known = (counts > 0) & (counts >= counts[:, -1:] / 2)
        total = torch.where(known, counts, 1)
        contrasts, differences, means = (sums / total[:, : sums.shape[1]] for sums in (contrasts, differences, means))
        steps = self.steps.to(counts.dtype)
        square = steps**2
        contrast_noise = (1 + 25 * FALL**2 + 16 * FALL**4) / 2

        # Rounding at neighbouring points is alike in small part, so that at the smallest steps the estimate falls. The
        # largest step that is not yet above twice the lowest estimate is nearest to where it is used.
        estimates = torch.where(known[:, :-2], contrasts / contrast_noise * square[:-2], torch.inf)
        low = (estimates <= 2 * estimates.amin(1, keepdim=True)) & known[:, :-2]
        noise = _taken(estimates, _first(low), low.any(1))

        def coefficient(sums: Tensor, rounding: Tensor, shape: Tensor) -> Tensor:
            """From the smallest step at which curvature shows, and at all larger ones: chance may lift a small one."""
            measured = known[:, : sums.shape[1]]
            excess = sums - rounding
            above = ((excess > rounding) | ~measured).int().cumprod(1).bool() & measured
            shown = sums.shape[1] - 1 - _first(above.flip(1))
            index = torch.where(above.any(1), shown, _first(measured))
            found = _taken(torch.where(above, excess, rounding) / shape.square(), index, measured.any(1))
            # What does not show may be as large as the rounding that hides it, but hardly larger than in other ranges.
            return torch.where(above.any(1), found, torch.minimum(found, found[-1]))

        spread = noise[:, None] / square
        second = coefficient(means, noise[:, None].expand_as(means), 0.75 * square[:-1])
        third = coefficient(differences, spread[:, :-1] * ((1 + FALL**2) / 2), 0.75 * square[:-1])
        fifth = coefficient(contrasts, spread[:, :-2] * contrast_noise, 45 / 64 * square[:-2].square())
        fields = torch.stack([noise, second, third, fifth])
        weight = self.counts[:, -1]
        return (weight * fields[:, :-1] + COMMON * fields[:, -1:]) / (weight + COMMON)


def _read_old_name(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Checkpoints of earlier versions call the differences slopes."""
    if f"{prefix}slopes" in state:
        state[f"{prefix}differences"] = state.pop(f"{prefix}slopes")


def ladder_levels(largest: float, smallest: float) -> int:
    """How many steps lead from ``largest`` to ``smallest``, at least 3."""
    return max(3, 1 + math.ceil(math.log(largest / smallest, FALL) - 1e-9))


def _first(chosen: Tensor) -> Tensor:
    """The first column of each row that is ``chosen``; the last one where none is."""
    index = torch.arange(chosen.shape[1], device=chosen.device)
    return torch.where(chosen, index, chosen.shape[1] - 1).amin(1)


def _taken(values: Tensor, index: Tensor, known: Tensor) -> Tensor:
    """The value at column ``index`` of each row; 0 in the rows where nothing is ``known``."""
    return torch.where(known, values.gather(1, index[:, None])[:, 0], 0)
