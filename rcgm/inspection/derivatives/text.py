"""A report of derivatives as text."""

from __future__ import annotations

from collections.abc import Iterable

from rcgm.inspection.derivatives.report import DerivativeReport, DerivativeRow, FormatReport
from rcgm.inspection.derivatives.verdict import BIAS_LIMIT, GROUPS, NOISE_LIMIT, Allowance
from rcgm.objectives import OBJECTIVES, Objective

__all__ = ["report_lines"]

AMPLIFIES_NOTHING = ("flow_matching", "shortcut")


def report_lines(report: DerivativeReport, own: Objective | None = None) -> list[str]:
    """The report in lines; ``own`` is an objective that is asked about."""
    truth = f"truth: {report.method}"
    if report.reason:
        truth += f" ({report.reason}); its own relative error is estimated at {report.uncertainty:.1g} at most"
    lines = [f"{report.samples} samples in each range of t, r = 0 in half of them", truth]
    if report.left_out:
        lines.append(f"{report.left_out} samples are left out: the true derivative is not finite there")
    for found in report.formats:
        lines += ["", *_errors(report, found), "", *_verdicts(found)]
        if own is not None:
            lines += _own(found, own)
    lines += [
        "",
        f"Safe: in every range of t, rounding is at most {NOISE_LIMIT:.2f} of the noise that the target of training "
        f"from data has anyway,",
        f"and the error of the step at most {BIAS_LIMIT:g} of the derivative.",
    ]
    return lines


def _errors(report: DerivativeReport, found: FormatReport) -> list[str]:
    header = [f"{found.name}: relative error of dF/dt, median (worst)", "step"]
    header += [f"t {low:g} to {high:g}" for low, high in report.ranges]
    rows = [[row.kind, "" if row.step is None else f"{row.step:g}", *_cells(row)] for row in found.derivatives]
    lines = _aligned([header, *rows])
    lost = [row for row in found.derivatives if any(row.not_finite)]
    lines += [f"{_label(row)}: {sum(row.not_finite)} estimates are not finite" for row in lost]
    lines += [f"{type(estimator).__name__}: {reason}" for estimator, reason in found.missing]
    return lines


def _cells(row: DerivativeRow) -> list[str]:
    return [f"{middle:.2g} ({worst:.2g})" for middle, worst in zip(row.median, row.worst, strict=True)]


def _verdicts(found: FormatReport) -> list[str]:
    lines = [f"{found.name}: what can be trained"]
    for group, names in GROUPS.items():
        lines.append(f"  {', '.join(names)}: {_derivative_verdict(found.derivatives, group)}")
    for kind in dict.fromkeys(row.kind for row in found.differences if not row.own):
        rows = [row for row in found.differences if row.kind == kind and not row.own]
        values = [row.value for row in rows]
        safe = _spans(values, [row.allowance.safe for row in rows])
        used = ", ".join(f"{row.allowance.used:.0%}" for row in rows)
        tried = ", ".join(f"{value:g}" for value in values)
        lines.append(f"  {kind}: safe with {rows[0].setting} {safe} ({used} of the limit at {tried})")
    lines.append(f"  {', '.join(AMPLIFIES_NOTHING)}, ucgm at ratio 0: safe, nothing is amplified")
    return lines


def _derivative_verdict(rows: Iterable[DerivativeRow], group: str) -> str:
    by_kind: dict[str, list[DerivativeRow]] = {}
    for row in rows:
        by_kind.setdefault(row.kind, []).append(row)
    parts = []
    for kind, own in by_kind.items():
        safe = [row.allowances[group].safe for row in own]
        best = min(own, key=lambda row: row.allowances[group].used)
        at = "" if best.step is None else f"at {best.step:g} "
        if not any(safe):
            parts.append(f"not {kind} ({at}{_used(best.allowances[group])})")
        elif best.step is None:
            parts.append(f"{kind} ({_used(best.allowances[group])})")
        else:
            spans = _spans([row.step or 0.0 for row in own], safe)
            parts.append(f"{kind} {spans} (best {at}{_used(best.allowances[group])})")
    return "safe with " + "; ".join(parts)


def _own(found: FormatReport, own: Objective) -> list[str]:
    name = next((name for name, cls in OBJECTIVES.items() if type(own) is cls), None)
    ratio = getattr(own, "consistency_ratio", None)
    known = f"{name}, ratio 1" if ratio == 1 else name
    group = next((group for group, names in GROUPS.items() if known in names), None)
    if group is not None:
        rows = [row for row in found.derivatives if row.estimator == own.derivative]
        verdicts = [(f"{name}, {_label(row)}", row.allowances[group]) for row in rows]
    else:
        verdicts = [(f"{row.kind}, {row.setting} {row.value:g}", row.allowance) for row in found.differences if row.own]
    lines = [
        f"this configuration ({what}): {'safe' if allowance.safe else 'NOT safe'}, {_used(allowance)}"
        for what, allowance in verdicts
    ]
    if own.supervision == "teacher":
        lines.append("its targets come from a teacher and have no noise of their own: go by the relative errors")
    return lines


def _used(allowance: Allowance) -> str:
    return f"{allowance.used:.0%} of the limit, {allowance.limited_by}"


def _label(row: DerivativeRow) -> str:
    return row.kind if row.step is None else f"{row.kind} {row.step:g}"


def _spans(values: list[float], safe: list[bool]) -> str:
    """The safe ones of growing ``values``: ``0.01 to 0.05``, ``0.02``, or ``none``."""
    good = [index for index, fine in enumerate(safe) if fine]
    if not good:
        return "none"
    if len(good) > 1 and all(safe[good[0] : good[-1] + 1]):
        return f"{values[good[0]]:g} to {values[good[-1]]:g}"
    return ", ".join(f"{values[index]:g}" for index in good)


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
