"""The plots of the pages, made from the result files: one function a plot, listed in ``PLOTS`` at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot

from benchmarks.tables import DECAYS, QUALITY

matplotlib.use("Agg")


def plot_moons(found: dict[str, Any], path: Path) -> None:
    short = min(row["steps"] for row in found["rows"])
    figure, axes = pyplot.subplots(figsize=(5.5, 3.6), layout="constrained")
    for order, colour in ((1, "#c1442e"), (2, "#1f6f8b")):
        rows = [row for row in found["rows"] if row["order"] == order and row["steps"] == short]
        heights = [row["mmd"]["1"] for row in sorted(rows, key=lambda row: row["decay"])]
        axes.plot([f"{decay:g}" for decay in DECAYS], [height or float("nan") for height in heights], "o-",
        color=colour,
                  label=f"order {order}")  # fmt: skip
    axes.axhline(found["floor"], color="#888888", linestyle=":", label="real points")
    axes.set(yscale="log", xlabel="EMA decay of the target network", ylabel="squared MMD, 1-step samples")
    axes.set_title(f"Two moons, {short:,} training steps", fontsize=10)
    axes.legend(frameon=False)
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=150)
    pyplot.close(figure)
    temporary.replace(path)


def plot_objectives(found: dict[str, Any], path: Path) -> None:
    tasks = list(found["seconds"])
    size = (1 + 4.5 * len(tasks), 5)
    figure, panels = pyplot.subplots(1, len(tasks), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for axes, task in zip(panels[0], tasks, strict=True):
        quality = QUALITY[task]
        rows = [row for row in found["rows"] if row["task"] == task]
        names = [row["name"] for row in rows]
        for number, marker in (("1", "o"), ("2", "s"), ("4", "^"), ("16", "x")):
            known = [(row["quality"][number], row["name"]) for row in rows if row["quality"].get(number)]
            axes.plot(*zip(*known, strict=True), marker, label=f"{number} step{'' if number == '1' else 's'}")
        axes.set(xscale="log", xlabel=f"{quality}, lower is better", title=task)
        axes.set_yticks(names)
        axes.grid(axis="y", color="#dddddd")
    panels[0, 0].invert_yaxis()
    panels[0, -1].legend(frameon=False)
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=130)
    pyplot.close(figure)
    temporary.replace(path)


PLOTS: Mapping[str, Callable[[dict[str, Any], Path], None]] = {"moons": plot_moons, "objectives": plot_objectives}
"""By the name of the result file, which is the name of the picture."""
