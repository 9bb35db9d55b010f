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


def plot_steps(found: dict[str, Any], path: Path) -> None:
    """Step time against memory, both over flow matching, at the largest batch where every family ran."""
    colours = {"flow matching": "#555555", "rcgm": "#1f6f8b", "difference": "#2e8b57", "jvp": "#c1442e"}
    presets = list(dict.fromkeys(row["preset"] for row in found["rows"]))
    size = (1 + 4.2 * len(presets), 4)
    figure, panels = pyplot.subplots(1, len(presets), figsize=size, layout="constrained", squeeze=False)
    for axes, preset in zip(panels[0], presets, strict=True):
        ran = [row for row in found["rows"] if row["preset"] == preset and row["times_flow_matching"] is not None]
        batches = sorted({row["batch"] for row in ran})
        whole = [batch for batch in batches if {r["family"] for r in ran if r["batch"] == batch} == set(colours)]
        batch = (whole or batches)[-1]
        rows = [row for row in ran if row["batch"] == batch]
        plain = min(row["peak_bytes"] for row in rows if row["family"] == "flow matching")
        for family, colour in colours.items():
            for compiled, marker in ((False, "o"), (True, "s")):
                own = [r for r in rows if r["family"] == family and (r["compiler"] is not None) == compiled]
                if own:
                    label = f"{family}, compiled" if compiled else family
                    places = [(row["peak_bytes"] / plain, row["times_flow_matching"]) for row in own]
                    axes.plot(*zip(*places, strict=True), marker, color=colour, label=label, alpha=0.8)
        axes.set(xlabel="memory / flow matching", ylabel="step time / flow matching")
        axes.set_title(f"DiT-{preset}, batch {batch}", fontsize=10)
        axes.grid(color="#eeeeee")
    panels[0, 0].legend(frameon=False)
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=130)
    pyplot.close(figure)
    temporary.replace(path)


PLOTS: Mapping[str, Callable[[dict[str, Any], Path], None]] = {
    "moons": plot_moons,
    "objectives": plot_objectives,
    "steps_cpu": plot_steps,
    "steps_cuda": plot_steps,
}
"""By the name of the result file, which is the name of the picture."""
