"""The check of the derivatives of a network: errors of all estimators, and what they mean for the objectives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.checks import one_of, whole_number
from rcgm.derivatives.stencils import check_step
from rcgm.engine import conditions
from rcgm.inspection.derivatives.errors import (
    DerivativeError,
    derivative_errors,
    difference_errors,
    estimators,
    gap_objectives,
    own_gap,
)
from rcgm.inspection.derivatives.points import NUMBER_FORMATS, Points
from rcgm.inspection.derivatives.report import DerivativeReport, DerivativeRow, DifferenceRow, FormatReport
from rcgm.inspection.derivatives.truth import true_derivative
from rcgm.inspection.derivatives.verdict import GROUPS, Yardstick, judge_derivative, judge_difference
from rcgm.objectives import Objective
from rcgm.roles import Role
from rcgm.transports import Linear, Transport

__all__ = ["GAPS", "RATIOS", "STEPS", "check_derivatives"]

STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
GAPS = (0.005, 0.01, 0.02, 0.05, 0.1)
RATIOS = (0.5, 0.8, 0.9, 0.95, 0.98)


@torch.no_grad()
def check_derivatives(
    network: nn.Module,
    x: Tensor,
    cond: Any = None,
    *,
    transport: Transport | None = None,
    formats: Sequence[str] = ("float32",),
    ranges: int = 4,
    steps: Sequence[float] = STEPS,
    objective: Objective | None = None,
    gaps: Sequence[float] = GAPS,
    ratios: Sequence[float] = RATIOS,
    batch_size: int = 64,
    seed: int = 0,
    on_progress: Callable[[str], None] | None = None,
) -> DerivativeReport:
    """Compare every estimator of ``dF/dt`` with the truth, on paths between data and noise.

    The truth is forward-mode AD of a float64 copy of the network. Where that does not run, or does not agree with
    differences, it is Richardson extrapolation of central differences of the copy. The network is put into evaluation
    mode: dropout is off.

    Args:
        network: ``(x, t, r, cond)`` to the shape of ``x``, on the device of ``x``.
        x: data, float32 ``[B, ...]``, ``B`` a multiple of ``2 ranges``.
        cond: condition of the samples, with leading dimension B.
        transport: of the paths; None for the linear one.
        formats: keys of ``NUMBER_FORMATS``.
        ranges: number of ranges of ``t``.
        steps: of the estimators that have one, each above 0 and at most 0.5.
        objective: one that is asked about: its estimator, gap or ratio is measured too.
        gaps: values of ``dt`` of RCGM and consistency models.
        ratios: consistency ratios of UCGM, each above 0 and below 1.
        batch_size: samples that are evaluated at a time.
        seed: of noise and times.
        on_progress: called with what begins.

    Raises:
        TypeError, ValueError: for an argument out of range, before any work; or for a network whose derivative is 0,
            or not finite in a whole range of ``t``.
    """
    _check_arguments(x, cond, formats, ranges, steps, batch_size)
    transport = Linear() if transport is None else transport
    objectives = gap_objectives(transport, gaps, ratios)
    own = None if objective is None else own_gap(objective)
    say = (lambda text: None) if on_progress is None else on_progress
    network = network.eval()
    generator = torch.Generator().manual_seed(seed)
    points = Points.draw(x, cond, ranges, transport, batch_size, generator)
    say("the true derivative, in float64")
    apart = network.on_own_base() if isinstance(network, Role) else copy.deepcopy(network)
    exact_network = apart.double()
    truth = true_derivative(exact_network, points.double())
    kept = truth.derivative.isfinite().flatten(1).all(1)
    _check_truth(truth.derivative[kept], kept, points)
    derivative, points = truth.derivative[kept], points.rows(kept)
    exact_points = points.double()
    instantaneous = exact_points.values(exact_network, None, torch.float32)
    yardstick = Yardstick.of(exact_points, derivative, instantaneous)
    chosen = estimators(steps)
    if objective is not None and objective.derivative not in chosen:
        chosen.append(objective.derivative)
    reports = []
    for name in formats:
        say(f"{name}: derivatives")
        both = (network, exact_network, points, exact_points)
        found = list(derivative_errors(*both, derivative, chosen, NUMBER_FORMATS[name]))
        say(f"{name}: differences")
        rounded = difference_errors(*both, objectives + ([] if own is None else [own]), NUMBER_FORMATS[name])
        reports.append(
            FormatReport(
                name,
                tuple(_row(error, yardstick) for error in found if isinstance(error, DerivativeError)),
                tuple(
                    DifferenceRow(
                        row.objective,
                        row.setting,
                        judge_difference(row, yardstick),
                        own=(row.objective, row.setting) == own,
                    )
                    for row in rounded
                ),
                tuple(error for error in found if isinstance(error, tuple)),
            )
        )
    return DerivativeReport(
        truth.method,
        truth.reason,
        float(truth.uncertainty[kept].max()),
        tuple((index / ranges, (index + 1) / ranges) for index in range(ranges)),
        len(x) // ranges,
        int((~kept).sum()),
        tuple(yardstick.noise.tolist()),
        tuple(reports),
    )


def _row(error: DerivativeError, yardstick: Yardstick) -> DerivativeRow:
    points = yardstick.points
    members = [points.range_of == index for index in range(points.ranges)]
    return DerivativeRow(
        error.estimator,
        tuple(float(error.relative[member].median()) for member in members),
        tuple(float(error.relative[member].max()) for member in members),
        tuple(int((~error.finite[member]).sum()) for member in members),
        {group: judge_derivative(error, yardstick, group) for group in GROUPS},
    )


def _check_arguments(
    x: Tensor, cond: Any, formats: Sequence[str], ranges: int, steps: Sequence[float], batch_size: int
) -> None:
    whole_number("ranges", ranges)
    whole_number("batch_size", batch_size)
    for name in formats:
        one_of("formats", name, NUMBER_FORMATS)
        if NUMBER_FORMATS[name].tf32 and x.device.type != "cuda":
            raise ValueError(f"formats must be without tf32 on {x.device.type}, which does not have it, got {name!r}")
    for step in steps:
        check_step("steps", step)
    if x.dtype != torch.float32:
        raise TypeError(f"x must be float32, got {x.dtype}")
    if len(x) == 0 or len(x) % (2 * ranges):
        raise ValueError(f"x must hold a multiple of {2 * ranges} samples, 2 for each range of t, got {len(x)}")
    conditions.check("cond", cond, len(x))


def _check_truth(derivative: Tensor, kept: Tensor, points: Points) -> None:
    for index in range(points.ranges):
        for to_data in (True, False):
            if not (kept & (points.range_of == index) & (points.to_data == to_data)).any():
                low, high = index / points.ranges, (index + 1) / points.ranges
                raise ValueError(
                    f"network must have a finite derivative, got none for t from {low:g} to {high:g}: "
                    "check its weights and the scale of the data"
                )
    if not derivative.any():
        raise ValueError(
            "network must change along the path, got a derivative of 0 everywhere: networks that are trained from "
            "scratch begin with a last layer of 0; check one that is trained (--run), or begins from other weights "
            "(init_from)"
        )
