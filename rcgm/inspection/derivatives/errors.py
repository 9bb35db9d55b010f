"""Errors of the estimators of a derivative, and of residuals of differences, in a number format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.derivatives import Auto, Central, Estimator, ForwardMode, OneSided
from rcgm.engine.estimator import Plan
from rcgm.engine.queries import Derivative
from rcgm.inspection.derivatives.points import NumberFormat, Points, rms
from rcgm.objectives import RCGM, UCGM, AlphaSchedule, Consistency, Objective
from rcgm.transports import Transport

__all__ = [
    "DerivativeError",
    "DifferenceError",
    "derivative_errors",
    "difference_errors",
    "estimators",
    "gap_objectives",
    "own_gap",
]


@dataclass(frozen=True)
class DerivativeError:
    """The error of an estimator at each point; tensors are float64 ``[B]``, root mean squares over the elements.

    Args:
        estimator: which, with its step.
        relative: norm of the error over that of the derivative; infinite where the estimate is not finite.
        rounding: part of the error that comes from the number format: the estimate less that of the same differences
            in float64.
        truncation: the other part, of the step: the differences in float64 less the truth.
        finite: bool, whether the estimate is.
    """

    estimator: Estimator
    relative: Tensor
    rounding: Tensor
    truncation: Tensor
    finite: Tensor


@dataclass(frozen=True)
class DifferenceError:
    """The rounding of the residual of an objective that subtracts predictions, in units of the prediction.

    Args:
        objective: which.
        setting: the setting that decides how much rounding is amplified, ``dt`` or ``consistency_ratio``.
        rounding: root mean square over the elements of the residual less that in float64, float64 ``[B]``; infinite
            where it is not finite.
        members: bool ``[B]``, the samples whose times are such as the objective has.
    """

    objective: Objective
    setting: str
    rounding: Tensor
    members: Tensor


def estimators(steps: Sequence[float]) -> list[Estimator]:
    """All estimators, those with a step at each of ``steps``."""
    fixed: list[Estimator] = [Central(step) for step in steps]
    fixed += [Central(step, order=4) for step in steps if step <= 0.25]
    fixed += [OneSided(step) for step in steps]
    return [*fixed, Auto(), Auto(evaluations=4), ForwardMode()]


def derivative_errors(
    network: nn.Module,
    exact_network: nn.Module,
    points: Points,
    exact_points: Points,
    truth: Tensor,
    chosen: Sequence[Estimator],
    number_format: NumberFormat,
) -> Iterator[DerivativeError | tuple[Estimator, str]]:
    """The errors of the ``chosen`` estimators, or for one that does not work with the network the reason."""
    size = rms(truth)
    for estimator in chosen:
        try:
            if isinstance(estimator, Auto):
                points.derivative(network, estimator, number_format.dtype)  # to choose its steps
                estimator = _Settled(estimator)
            with number_format.set_up():
                estimate = points.derivative(network, estimator, number_format.dtype).double()
            exact = exact_points.derivative(exact_network, estimator, torch.float32)
        except ValueError as problem:
            yield estimator, str(problem)
            continue
        finite = estimate.isfinite().flatten(1).all(1)
        whole = rms(estimate - truth)
        relative = torch.where(whole > 0, whole / size, 0.0)
        yield DerivativeError(
            estimator.auto if isinstance(estimator, _Settled) else estimator,
            torch.where(finite, relative, torch.inf),
            torch.where(finite, rms(estimate - exact), torch.inf),
            rms(exact - truth),
            finite,
        )


def gap_objectives(transport: Transport, gaps: Sequence[float], ratios: Sequence[float]) -> list[tuple[Objective, str]]:
    """Objectives of differences of predictions, each with the name of the setting that is varied."""
    return [
        *((RCGM(dt=gap, transport=transport), "dt") for gap in gaps),
        *((Consistency(dt=gap, transport=transport), "dt") for gap in gaps),
        *((UCGM(consistency_ratio=ratio, transport=transport), "consistency_ratio") for ratio in ratios),
    ]


def own_gap(objective: Objective) -> tuple[Objective, str] | None:
    """``objective`` as one of data without guidance, and its setting; None where it divides by no gap."""
    plain: dict[str, Any] = {"supervision": "data", "guidance": None}
    term = getattr(objective, "self_adversarial", None)
    if term is not None:
        plain["self_adversarial"] = replace(term, image_free=False)
    if isinstance(objective, Consistency) and objective.segments is not None:
        return replace(objective, segments=None, dt=1 / objective.segments[1], **plain), "dt"  # its last gap
    if isinstance(objective, RCGM) and objective.alpha is not None and objective.order > 0:
        floor = objective.alpha.floor if isinstance(objective.alpha, AlphaSchedule) else objective.alpha
        return replace(objective, alpha=floor, **plain), "alpha"
    if isinstance(objective, RCGM) and objective.order > 0:
        return replace(objective, **plain), "dt"
    if isinstance(objective, UCGM) and 0 < objective.consistency_ratio < 1:
        return replace(objective, **plain), "consistency_ratio"
    return None


def difference_errors(
    network: nn.Module,
    exact_network: nn.Module,
    points: Points,
    exact_points: Points,
    chosen: Sequence[tuple[Objective, str]],
    number_format: NumberFormat,
) -> Iterator[DifferenceError]:
    """The rounding of the residuals of the ``chosen`` objectives."""
    for objective, setting in chosen:
        with number_format.set_up():
            residual = points.residual(network, objective, number_format.dtype).double()
        rounding = rms(residual - exact_points.residual(exact_network, objective, torch.float32))
        if isinstance(objective, UCGM):  # its residual is dB/dt times that of flow matching
            point = exact_points.point
            rounding = rounding / objective.transport.step_derivative(point.t, point.r).abs()
        members = points.to_data if objective.times.interval == "zero" else torch.ones_like(points.to_data)
        yield DifferenceError(objective, setting, torch.where(rounding.isfinite(), rounding, torch.inf), members)


@dataclass(frozen=True)
class _Settled(Estimator):
    """``auto`` with the steps that it has chosen so far: the same in every format."""

    auto: Auto

    def plan(self, derivative: Derivative) -> Plan:
        return self.auto.without_measuring(derivative)
