"""The plots of the pages, made from the result files: one function a plot, listed in ``PLOTS`` at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from benchmarks.headline import compared, contenders
from benchmarks.order_tables import COLUMNS, ORDERS, cell_text, cells_of
from benchmarks.tables import DECAYS, QUALITY, TASKS
from rcgm.plots import steps_title
from rcgm.plots.style import COLOURS, FAINT, INK, new_figure, quiet, save_figure

BLUE, ORANGE, GREEN = COLOURS[:3]
GREY = "#8a919c"
FAMILIES = {"flow matching": GREY, "rcgm": BLUE, "difference": GREEN, "jvp": ORANGE}


def plot_headline(found: dict[str, Any], path: Path) -> None:
    """Bars of time and memory: order 2 against the forms of forward-mode AD."""
    (preset, batch), rows = compared(found), contenders(found)
    figure = new_figure(8.6, 0.9 + 0.34 * len(rows))
    panels = figure.subplots(1, 2, sharey=True)
    plain = rows[0][1]
    for axes, title, values in (
        (panels[0], "time of a training step, relative to flow matching", [row["relative_time"] for _, row in rows]),
        (panels[1], "peak memory, relative to flow matching",
         [row["peak_bytes"] / plain["peak_bytes"] for _, row in rows]),
    ):  # fmt: skip
        bars = axes.barh([name for name, _ in rows], values, color=[FAMILIES[row["family"]] for _, row in rows])
        axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=4, fontsize=9, color=INK)
        axes.set_title(title, fontsize=9, color=INK, loc="left")
        axes.set_xlim(0, 1.15 * max(values))
        axes.set_xticks([])
        quiet(axes)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", length=0, labelsize=9)
    panels[0].invert_yaxis()
    where = found["environment"]
    cores = f"CPU, {where['cores']} cores of {where['device']}" if where["cuda"] is None else where["device"]
    note = f"DiT-{preset}, batch {batch}, {found['autocast']}, {cores}"
    figure.supxlabel(note, fontsize=7.5, color=GREY, x=0.99, ha="right")
    save_figure(path, figure)


def plot_moons(found: dict[str, Any], path: Path) -> None:
    """Quality of one-step samples by order and decay of the average."""
    short = min(row["steps"] for row in found["rows"])
    figure = new_figure(5.5, 3.6)
    axes = figure.add_subplot()
    for order, colour in ((1, ORANGE), (2, BLUE)):
        rows = [row for row in found["rows"] if row["order"] == order and row["steps"] == short]
        by_decay = [row["mmd"] for row in sorted(rows, key=lambda row: row["decay"])]
        heights = [None if None in mmd.values() else mmd["1"] for mmd in by_decay]
        axes.plot([height or math.nan for height in heights], "o-", color=colour, label=f"order {order}")
        for place in (place for place, height in enumerate(heights) if height is None):
            axes.text(place, 0.95, "diverges", color=colour, fontsize=9, transform=axes.get_xaxis_transform())
    axes.set_xticks(range(len(DECAYS)), [f"{decay:g}" for decay in DECAYS])
    axes.axhline(found["floor"], color=GREY, linestyle=":", label="real points")
    axes.set_yscale("log")
    axes.set_ylim(top=4 * axes.get_ylim()[1])  # room for the legend
    _labelled(axes, f"Two moons, {short:,} training steps", "EMA decay of the target network",
              "squared MMD, 1-step samples")  # fmt: skip
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper right", ncols=3)
    save_figure(path, figure)


def plot_orders(found: dict[str, Any], path: Path) -> None:
    """A heat map: quality of one-step samples by order and column, means over the seeds with deviations."""
    cells = cells_of(found)
    grid = [[(order, column) for column in COLUMNS] for order in ORDERS]
    heights = [[mean(cells[cell]) if cells.get(cell) else math.nan for cell in row] for row in grid]
    figure = new_figure(8.5, 4.6)
    axes = figure.add_subplot()
    known = [height for row in heights for height in row if height == height]
    scale = LogNorm(min(known), max(max(known), 1.01 * min(known)))
    axes.imshow(heights, norm=scale, cmap="Blues", aspect="auto")
    for place, row in enumerate(grid):
        for across, cell in enumerate(row):
            dark = heights[place][across] > (min(known) * max(known)) ** 0.5
            text = cell_text(cells, cell).replace(" ± ", "\n± ")
            axes.text(across, place, text, ha="center", va="center", fontsize=8, color="white" if dark else INK)
    axes.set_xticks(range(len(COLUMNS)), [str(column).replace(", ", "\n") for column in COLUMNS])
    axes.set_yticks(range(len(ORDERS)), [str(order) for order in ORDERS])
    _labelled(axes, f"Digits, Fréchet distance of 1-step samples, {found['steps']:,} training steps",
              "target network, which is sampled, and first gap where it is not 0.1", "order")  # fmt: skip
    save_figure(path, figure)


def plot_objectives(found: dict[str, Any], path: Path) -> None:
    """Quality by objective and number of sampling steps, a panel for each task."""
    tasks = list(dict.fromkeys(row["task"] for row in found["rows"]))
    names = list(dict.fromkeys(row["name"] for row in found["rows"]))
    figure = new_figure(1 + 4.5 * len(tasks), 1.5 + 0.22 * len(names))
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)
    for axes, task in zip(panels[0], tasks, strict=True):
        rows = [row for row in found["rows"] if row["task"] == task]
        for (number, marker), colour in zip({"1": "o", "2": "s", "4": "^", "16": "x"}.items(), COLOURS, strict=False):
            known = [(row["quality"][number], row["name"]) for row in rows if row["quality"].get(number)]
            axes.plot(*zip(*known, strict=True), marker, color=colour, label=steps_title(int(number)), markersize=5)
        axes.set_xscale("log")
        axes.set_yticks(list(dict.fromkeys(row["name"] for row in rows)))
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        _labelled(axes, TASKS[task], f"{QUALITY[task]}, lower is better", "")
    panels[0, 0].invert_yaxis()
    panels[0, -1].legend(frameon=False, fontsize=9, labelcolor=INK)
    save_figure(path, figure)


def plot_steps(found: dict[str, Any], path: Path) -> None:
    """Step time against memory, both over flow matching, at the largest batch where every family ran."""
    presets = list(dict.fromkeys(row["preset"] for row in found["rows"]))
    figure = new_figure(1 + 4.2 * len(presets), 4)
    panels = figure.subplots(1, len(presets), squeeze=False)
    for axes, preset in zip(panels[0], presets, strict=True):
        ran = [row for row in found["rows"] if row["preset"] == preset and row["times_flow_matching"] is not None]
        batches = sorted({row["batch"] for row in ran})
        whole = [batch for batch in batches if {r["family"] for r in ran if r["batch"] == batch} == set(FAMILIES)]
        batch = (whole or batches)[-1]
        rows = [row for row in ran if row["batch"] == batch]
        plain = min(row["peak_bytes"] for row in rows if row["family"] == "flow matching")
        for family, colour in FAMILIES.items():
            for compiled, marker in ((False, "o"), (True, "s")):
                own = [r for r in rows if r["family"] == family and (r["compiler"] is not None) == compiled]
                if own:
                    label = f"{family}, compiled" if compiled else family
                    places = [(row["peak_bytes"] / plain, row["times_flow_matching"]) for row in own]
                    axes.plot(*zip(*places, strict=True), marker, color=colour, label=label, alpha=0.85)
        axes.grid(color=FAINT, linewidth=0.6, alpha=0.7)
        _labelled(axes, f"DiT-{preset}, batch {batch}", "memory, relative to flow matching",
                  "step time, relative to flow matching")  # fmt: skip
    panels[0, 0].legend(frameon=False, fontsize=9, labelcolor=INK)
    save_figure(path, figure)


def plot_fidelity(found: dict[str, Any], path: Path) -> None:
    """A panel for each network: error against step, ``auto`` where it lands, forward-mode AD as a level."""
    cases = found["cases"]
    names = list(dict.fromkeys(case["problem"] for case in cases))
    figure = new_figure(11, 7.5)
    for panel, name in enumerate(names):
        axes = figure.add_subplot(2, math.ceil(len(names) / 2), panel + 1)
        for colour, case in zip(COLOURS, [case for case in cases if case["problem"] == name], strict=False):
            for family, style in (("central", "-"), ("central, order 4", "--")):
                steps = [float(step) for step in case["sweeps"][family]]
                label = case["format"] if family == "central" else None
                axes.loglog(steps, list(case["sweeps"][family].values()), style, color=colour, label=label)
            axes.axhline(case["forward_mode"], color=colour, linewidth=0.8, linestyle=":")
            for which, marker in (("auto", "*"), ("auto, 4", "P")):
                place = (case[which]["derivative_step"], case[which]["error"])
                axes.plot(*place, marker, color=colour, markersize=12, markeredgecolor="white")
        axes.grid(True, color=FAINT, linewidth=0.6, alpha=0.7)
        _labelled(axes, name, "step e", "relative error of dF/dt")
        if panel == 0:
            _legend_of_fidelity(axes)
    save_figure(path, figure)


def _legend_of_fidelity(axes: Axes) -> None:
    for style, label in (
        ("--", "order 4"),
        (":", "jvp"),
        ("*", "auto, 2 evaluations"),
        ("P", "auto, 4 evaluations"),
    ):
        axes.plot([], [], style, color=INK, label=label, markersize=9)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)


def _labelled(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel(x_label, fontsize=9, color=INK)
    axes.set_ylabel(y_label, fontsize=9, color=INK)
    quiet(axes)


Plot = Callable[[dict[str, Any], Path], None]

PLOTS: Mapping[str, tuple[str, Plot]] = {
    "moons": ("moons", plot_moons),
    "orders": ("orders", plot_orders),
    "objectives": ("objectives", plot_objectives),
    "fidelity": ("fidelity", plot_fidelity),
    "steps_cpu": ("steps_cpu", plot_steps),
    "steps_cuda": ("steps_cuda", plot_steps),
    "headline": ("steps_cpu", plot_headline),
}
"""By the name of the picture: the name of the result file that it is made from, and the function."""
