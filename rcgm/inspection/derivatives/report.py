"""What a check of derivatives found, by number format and estimator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from rcgm.config.families import name_of
from rcgm.derivatives import Estimator
from rcgm.inspection.derivatives.verdict import Allowance
from rcgm.objectives import OBJECTIVES, Objective

__all__ = ["DerivativeReport", "DerivativeRow", "DifferenceRow", "FormatReport"]


@dataclass(frozen=True)
class DerivativeRow:
    """The error of an estimator, by range of ``t``.

    Args:
        estimator: class and settings.
        median, worst: of the relative errors of the samples of each range.
        not_finite: samples of each range whose estimate is not finite.
        allowances: what of the limits is used, by key of ``GROUPS``.
    """

    estimator: Estimator
    median: tuple[float, ...]
    worst: tuple[float, ...]
    not_finite: tuple[int, ...]
    allowances: Mapping[str, Allowance]

    @property
    def kind(self) -> str:
        """``central``, ``central, order 4``, ``auto`` and so on: all but the step."""
        name = name_of(self.estimator) or type(self.estimator).__name__
        order = getattr(self.estimator, "order", 2)
        evaluations = getattr(self.estimator, "evaluations", 2)
        return (
            name + (f", order {order}" if order != 2 else "") + (f", {evaluations} points" if evaluations != 2 else "")
        )

    @property
    def step(self) -> float | None:
        """The step, of an estimator that has one."""
        return getattr(self.estimator, "step", None)


@dataclass(frozen=True)
class DifferenceRow:
    """What the rounding of an objective of differences uses of its limit.

    Args:
        objective: which.
        setting: the setting that decides it, ``dt`` or ``consistency_ratio``.
        allowance: what is used.
        own: whether it is the one that was asked about.
    """

    objective: Objective
    setting: str
    allowance: Allowance
    own: bool = False

    @property
    def kind(self) -> str:
        """The objective's name in a configuration, with its order."""
        names = (name for name, cls in OBJECTIVES.items() if type(self.objective) is cls)
        name = next(names, type(self.objective).__name__)
        return f"{name}, order {self.objective.order}" if name == "rcgm" else name

    @property
    def value(self) -> float:
        """Of the setting."""
        return getattr(self.objective, self.setting)


@dataclass(frozen=True)
class FormatReport:
    """All rows of a number format; ``missing`` says why an estimator does not work with the network."""

    name: str
    derivatives: tuple[DerivativeRow, ...]
    differences: tuple[DifferenceRow, ...]
    missing: tuple[tuple[Estimator, str], ...]


@dataclass(frozen=True)
class DerivativeReport:
    """What :func:`~rcgm.inspection.derivatives.check_derivatives` found.

    Args:
        method: how the truth was had.
        reason: why it was not had by forward-mode AD; empty where it was.
        uncertainty: largest estimated relative error of the truth.
        ranges: ends of the ranges of ``t``.
        samples: in each range.
        left_out: samples whose true derivative is not finite.
        noise: of the target, by range; see :class:`~rcgm.inspection.derivatives.verdict.Yardstick`.
        formats: by number format.
    """

    method: str
    reason: str
    uncertainty: float
    ranges: tuple[tuple[float, float], ...]
    samples: int
    left_out: int
    noise: tuple[float, ...]
    formats: tuple[FormatReport, ...]

    def plain(self) -> dict[str, Any]:
        """The report in values that JSON can hold; numbers that are not finite become None."""
        return {
            "truth": {"method": self.method, "reason": self.reason, "uncertainty": _plain(self.uncertainty)},
            "ranges": [list(ends) for ends in self.ranges],
            "samples_in_each_range": self.samples,
            "left_out": self.left_out,
            "noise_of_the_target": _plain(self.noise),
            "formats": {report.name: _format(report) for report in self.formats},
        }


def _format(report: FormatReport) -> dict[str, Any]:
    return {
        "derivatives": [
            {
                "estimator": _settings(row.estimator),
                "median": _plain(row.median),
                "worst": _plain(row.worst),
                "not_finite": list(row.not_finite),
                "verdicts": {group: _allowance(value) for group, value in row.allowances.items()},
            }
            for row in report.derivatives
        ],
        "differences": [
            {"objective": row.kind, row.setting: row.value, "own": row.own, "verdict": _allowance(row.allowance)}
            for row in report.differences
        ],
        "missing": [{"estimator": _settings(estimator), "reason": reason} for estimator, reason in report.missing],
    }


def _settings(estimator: Estimator) -> dict[str, Any]:
    settings = {field.name: getattr(estimator, field.name) for field in fields(estimator) if field.init}
    return {"name": name_of(estimator) or type(estimator).__name__, **settings}


def _allowance(allowance: Allowance) -> dict[str, Any]:
    return {
        "safe": allowance.safe,
        "used": _plain(allowance.used),
        "limited_by": allowance.limited_by,
        "rounding": _plain(allowance.rounding),
        "truncation": _plain(allowance.truncation),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value if math.isfinite(value) else None
