"""Central differences whose step is chosen from the network itself (math.md section 6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rcgm.derivatives.measurements import ErrorModel, Measurements, ladder_levels
from rcgm.derivatives.stencils import (
    check_step,
    difference,
    four_nodes,
    interpolating_weights,
    query_at,
    reach,
    regression_weights,
    two_nodes,
)
from rcgm.distributed.shares import Share
from rcgm.engine.combination import Combination
from rcgm.engine.estimator import Estimator, Plan
from rcgm.engine.queries import Derivative, Query

CANDIDATES = 33
"""Number of steps that are compared: the error is so flat near its minimum that a finer choice gains nothing."""


@dataclass
class Auto(Estimator):
    """The central difference, with the step that balances the rounding of the network against its curvature.

    From time to time a part of the batch is also evaluated at a ladder of steps, in the same wave. The differences
    scatter at small steps and drift at large ones. From that the rounding noise and the curvature are estimated, for
    each range of ``t`` (:class:`Measurements`). Every sample then takes the step of the least expected error for its
    range, cut where its path ends. In the residuals the derivative is multiplied by the length of the interval, so the
    samples of a measurement have the weight ``(t - r)^2``. Nothing waits for the device.

    The first call evaluates the whole batch at the ladder and takes its differences from there, so its steps are
    already chosen. Further measurements are made at calls 2, 4, 8, ..., since the student changes fast at first, and
    then at every ``every``-th call. With the defaults and a batch of 64 they cost two batched evaluations in 200 calls,
    0.2% of a step that takes five times as long as one forward.

    What was measured is kept in :meth:`state`: saved and resumed with a run, and the same for the same seed. Copies of
    an objective share the instance; separate runs need separate instances. If several processes train together, the
    measurements are of the samples of all of them, so their steps are the same. A micro-batch counts as a call.

    Args:
        evaluations: 2 or 4. With 4, each sample takes the fourth-order stencil or the least-squares line through the
            four, whichever has the smaller expected error; the line is better where noise is large and the curvature
            of high order.
        every: calls between measurements, at least 1.
        fraction: part of the batch that is measured, above 0 and at most 1; at least 4 samples.
        bins: number of ranges of ``t`` of equal length, each with its own estimate.
        decay: factor by which earlier measurements are multiplied at each new one, from 0 to below 1.
        largest, smallest: ends of the ladder and of the range of the step, ``0 < smallest <= largest/4``, ``largest <=
            0.5``.

    Attributes:
        measurements: what was measured so far, a module whose state is saved with a run.

    Raises:
        ValueError: for a value out of range.
    """

    evaluations: int = 2
    every: int = 200
    fraction: float = 0.125
    bins: int = 8
    decay: float = 0.7
    largest: float = 0.25
    smallest: float = 0.001
    measurements: Measurements = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.evaluations not in (2, 4):
            raise ValueError(f"evaluations must be 2 or 4, got {self.evaluations!r}")
        for name in ("every", "bins"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1, got {self.fraction!r}")
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, got {self.decay!r}")
        check_step("largest", self.largest)
        check_step("smallest", self.smallest, self.largest / 4)
        levels = ladder_levels(self.largest, self.smallest)
        self.measurements = Measurements(self.largest, levels, self.bins, self.decay)

    def state(self) -> Measurements:
        return self.measurements

    def report(self) -> dict[str, Tensor]:
        """The steps away from the ends of time, over the ranges, and the noise and curvature that they balance."""
        known = self.measurements
        model = known.model()
        endless = torch.full_like(model.noise, torch.inf)
        nodes, _ = self._choose(model, -endless, endless)
        steps = nodes[-1] / (1 if self.evaluations == 2 else 2)
        return {
            "derivative_step": steps.log().mean().exp(),
            "derivative_step_min": steps.amin(),
            "derivative_step_max": steps.amax(),
            "derivative_noise": model.noise.mean().sqrt(),
            "derivative_curvature": model.third.mean().sqrt(),
        }

    def plan(self, derivative: Derivative) -> Plan:
        known = self.measurements
        if known.counts.device != derivative.t.device:
            known.to(derivative.t.device)
        batch = derivative.t.shape[0]
        if derivative.start >= batch:
            return self.without_measuring(derivative)
        call, known.calls = known.calls, known.calls + 1
        if call == 0:
            return self._first(derivative)
        if not self._due(call):
            return self.without_measuring(derivative)
        queries, combine = self.without_measuring(derivative)
        whole = _whole(derivative)
        start = max(derivative.start, whole.rows - whole.last(max(round(self.fraction * whole.together), 4)))
        ladder, record = self._ladder(derivative, start)

        def combined(answers: list[Tensor]) -> Combination:
            record(answers[len(queries) :])
            return combine(answers[: len(queries)])

        return queries + ladder, combined

    def _due(self, call: int) -> bool:
        return call % self.every == 0 or (call < self.every and call & (call - 1) == 0)

    def without_measuring(self, derivative: Derivative) -> Plan:
        """The plan with the steps that are chosen so far; nothing is measured, and no call counted."""
        known = self.measurements
        nodes, weights = self._choose(known.model(derivative.t), *reach(derivative))
        return [query_at(derivative, node) for node in nodes], lambda answers: difference(answers, weights)

    def _choose(self, model: ErrorModel, back: Tensor, ahead: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes and weights ``[n, B]`` of the least expected error."""
        spread = (self.smallest / self.largest) ** (1 / (CANDIDATES - 1))
        scale = 1 if self.evaluations == 2 else 2
        order = torch.arange(CANDIDATES, dtype=back.dtype, device=back.device)
        steps = self.largest / scale * spread ** order[:, None]
        back, ahead = back.expand(CANDIDATES, -1), ahead.expand(CANDIDATES, -1)
        if self.evaluations == 2:
            nodes = two_nodes(back, ahead, steps)
            weights = interpolating_weights(nodes)
        else:
            nodes = four_nodes(back, ahead, steps).repeat(1, 2, 1)
            half = nodes[:, :CANDIDATES]
            weights = torch.cat([interpolating_weights(half), regression_weights(half)], 1)
        best = _least(model, nodes, weights, CANDIDATES // 2)[None, None].expand(len(nodes), 1, -1)
        return nodes.gather(1, best)[:, 0], weights.gather(1, best)[:, 0]

    def _ladder(self, derivative: Derivative, start: int) -> tuple[list[Query], Callable[[list[Tensor]], None]]:
        """Evaluations at all steps of the ladder, behind and then ahead, and a function that records their answers."""
        known = self.measurements
        back, ahead = reach(derivative)
        nodes = two_nodes(back, ahead, known.steps.to(back.dtype)[:, None]).flatten(0, 1)
        queries = [query_at(derivative, node, start) for node in nodes]

        def record(answers: list[Tensor]) -> None:
            before, after = torch.stack([answer[start:] for answer in answers]).chunk(2)
            t, r = derivative.t[start:], derivative.r[start:]
            room = torch.minimum(-back, ahead)[start:]
            known.record(t, room, before, after, (t - r).square(), _whole(derivative))

        return queries, record

    def _first(self, derivative: Derivative) -> Plan:
        known = self.measurements
        queries, record = self._ladder(derivative, derivative.start)
        back, ahead = reach(derivative)
        nodes = two_nodes(back, ahead, known.steps.to(back.dtype)[:, None])

        def combined(answers: list[Tensor]) -> Combination:
            record(answers)
            weights = interpolating_weights(nodes)
            best = _least(known.model(derivative.t), nodes, weights, len(known.steps) // 2)
            rows = torch.arange(len(best), device=best.device)
            taken = [
                torch.stack(side)[best, rows] for side in (answers[: len(known.steps)], answers[len(known.steps) :])
            ]
            return difference(taken, weights[:, best, rows])

        return queries, combined


def _whole(derivative: Derivative) -> Share:
    return Share(derivative.t.shape[0]) if derivative.share is None else derivative.share


def _least(model: ErrorModel, nodes: Tensor, weights: Tensor, unknown: int) -> Tensor:
    """Index ``[B]`` of the candidate with the smallest expected error; nodes and weights ``[n, candidates, B]``.

    It is ``unknown`` before anything was measured, and for a constant network, as DiTs are at initialisation.
    """
    errors = model.error(nodes, weights)
    return torch.where(model.noise > 0, errors.argmin(0), unknown)
