"""A picture of a report of derivatives: error against step, a panel for each range of time, a row for each format."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rcgm.inspection.derivatives.report import DerivativeReport, FormatReport
from rcgm.plots.style import FAINT, INK, colours, new_figure, quiet

__all__ = ["report_figure"]


def report_figure(report: DerivativeReport) -> Figure:
    """Medians as lines, the worst samples as dots; estimators without a step of their own are level lines."""
    rows, columns = len(report.formats), len(report.ranges)
    figure = new_figure(2.9 * columns + 0.8, 2.6 * rows + 0.6)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for found, line in zip(report.formats, panels, strict=True):
        for index, axes in enumerate(line):
            _draw(axes, found, index)
            low, high = report.ranges[index]
            axes.set_title(f"{found.name}, t {low:g} to {high:g}", fontsize=9, color=INK, loc="left")
        line[0].set_ylabel("relative error of dF/dt", color=INK, fontsize=8)
    for axes in panels[-1]:
        axes.set_xlabel("step", color=INK, fontsize=8)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, labelcolor=INK, fontsize=8)
    return figure


def _draw(axes: Axes, found: FormatReport, index: int) -> None:
    kinds = list(dict.fromkeys(row.kind for row in found.derivatives))
    for kind, colour in zip(kinds, colours(len(kinds)), strict=True):
        rows = [row for row in found.derivatives if row.kind == kind and math.isfinite(row.median[index])]
        rows = [row for row in rows if row.median[index] > 0]
        stepped = sorted((row for row in rows if row.step is not None), key=lambda row: row.step)
        if stepped:
            steps = [row.step for row in stepped]
            axes.plot(steps, [row.median[index] for row in stepped], color=colour, linewidth=1.6, label=kind)
            axes.plot(steps, [row.worst[index] for row in stepped], ".", color=colour, markersize=4, alpha=0.5)
        for row in rows:
            if row.step is None:
                axes.axhline(row.median[index], color=colour, linewidth=1.2, linestyle="--", label=kind)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(True, which="major", color=FAINT, linewidth=0.6, alpha=0.7)
    quiet(axes)
