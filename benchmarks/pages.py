"""Writes the tables of README.md, and the plots, from the result files.

python -m benchmarks.pages            rewrite what stands between the markers
python -m benchmarks.pages --check    fail if README.md is not what the result files say
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.environment import RESULTS

README = Path(__file__).parent.parent / "README.md"
DECAYS = (0.0, 0.9, 0.99, 0.999)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if README.md is out of date")
    check = parser.parse_args().check
    before = README.read_text()
    after = with_tables(before)
    if check:
        sys.exit(0 if before == after else "README.md is out of date: run `python -m benchmarks.pages`")
    README.write_text(after)
    moons = result("moons")
    if moons:
        plot_moons(moons, RESULTS / "moons.png")
    objectives = result("objectives")
    if objectives:
        plot_objectives(objectives, RESULTS / "objectives.png")


def with_tables(text: str) -> str:
    """``text`` with every marked block replaced by its table."""
    for name, table in {
        "digits": digits_table,
        "moons": moons_table,
        "objectives": objectives_table,
        "kernels": kernels_table,
        "backends": backends_table,
    }.items():
        block = f"<!-- begin {name} -->\n{table()}\n<!-- end {name} -->"
        text, found = re.subn(
            f"<!-- begin {name} -->.*?<!-- end {name} -->", block.replace("\\", r"\\"), text, flags=re.DOTALL
        )
        if found != 1:
            raise SystemExit(f"README.md must have one block named {name}, found {found}")
    return text


def result(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def provenance(found: dict[str, Any]) -> str:
    where = found["environment"]
    return (
        f"{where['device']}, {where['cores']} cores, torch {where['torch']}, commit {where['commit']}, {where['date']}"
    )


def digits_table() -> str:
    found = result("digits")
    if found is None:
        return "Not measured."
    rows = [
        [
            steps,
            f"{measured['class_accuracy']:.3f}",
            f"{measured['frechet_distance']:.2f}",
            f"{measured['nearest_median_ratio']:.2f}",
        ]
        for steps, measured in found["metrics"].items()
    ]
    header = ["sampling steps", "class accuracy", "Fréchet distance", "distance to nearest training image, over real"]
    config = found["config"]
    settings = (
        f"order {config['objective']['order']}, EMA {config['ema']['decay']:g}, {found['parameters']:,} parameters"
    )
    minutes = found["train_seconds"] / 60
    trained = f"{found['steps']:,} steps of {config['batch_size']} in {minutes:.1f} minutes"
    return f"{table(header, rows)}\n\n{settings}; {trained}. {provenance(found)}."


def moons_table() -> str:
    found = result("moons")
    if found is None:
        return "Not measured."

    def cell(order: int, decay: float, steps: int) -> str:
        row = next(r for r in found["rows"] if (r["order"], r["decay"], r["steps"]) == (order, decay, steps))
        return "diverges" if None in row["mmd"].values() else f"{row['mmd']['1']:.4f}"

    longest = max(row["steps"] for row in found["rows"])
    short = min(row["steps"] for row in found["rows"])
    header = ["order", *(f"EMA {decay:g}" for decay in DECAYS), f"EMA 0.999, {longest:,} steps"]
    rows = [
        [str(order), *(cell(order, decay, short) for decay in DECAYS), cell(order, 0.999, longest)] for order in (1, 2)
    ]
    return (
        f"{table(header, rows)}\n\nSquared MMD of 1-step samples after {short:,} steps, lower is better; two sets of "
        f"real points are {found['floor']:.4f} apart. {provenance(found)}."
    )


QUALITY = {"digits": "Fréchet distance", "two_moons": "squared MMD"}


def objectives_table() -> str:
    found = result("objectives")
    if found is None:
        return "Not measured."
    parts = []
    for task, quality in QUALITY.items():
        if task not in found["seconds"]:
            continue
        rows = [row for row in found["rows"] if row["task"] == task]
        plain = next(row["milliseconds"] for row in rows if row["name"] == "flow_matching")
        cells = [
            [
                row["name"],
                row["sampler"],
                *(f"{row['quality'][n]:.3g}" if n in row["quality"] else "" for n in ("1", "2", "4", "16")),
                f"{row['milliseconds'] / plain:.2f}",
                f"{row['steps']:,}",
                f"{row['memory_mib']:.0f}",
                f"{row['waves']:.2g}",
                f"{row['evaluations']:.2g}",
            ]
            for row in rows
        ]
        steps = [f"{quality}, {n} step{'' if n == 1 else 's'}" for n in (1, 2, 4, 16)]
        header = [
            task,
            "sampler",
            *steps,
            "step time / flow matching",
            "steps trained",
            "peak memory beyond start, MiB",
        ]
        parts.append(table([*header, "waves", "evaluations"], cells))
    spent = ", ".join(f"{seconds:g} s of one core for each on {task}" for task, seconds in found["seconds"].items())
    parts.append(f"{spent}; lower is better. {provenance(found)}.")
    return "\n\n".join(parts)


def kernels_table() -> str:
    parts = []
    for device in ("cpu", "cuda"):
        found = result(f"kernels_{device}")
        if found is None:
            continue
        rows = [
            [
                row["operation"],
                "×".join(map(str, row["shape"])),
                row["dtype"],
                f"{row['times_floor']:.2f}",
                f"{row['eager_over_fused']:.1f}",
                f"{row['compile_over_fused']:.2f}",
                str(row["large_allocations"]),
            ]
            for row in found["rows"]
        ]
        header = ["operation", "shape", "dtype", "time / copy of as many bytes", "eager / ours", "torch.compile / ours"]
        parts.append(f"{table([*header, 'allocations of a term or more'], rows)}\n\n{provenance(found)}.")
    return "\n\n".join(parts) if parts else "Not measured."


def backends_table() -> str:
    gpu = result("gpu_check")
    never = "compiled and checked off the device; **never run on a GPU**"
    ran = f"tested on {provenance(gpu)}" if gpu and gpu["passed"] else never
    rows = [
        ["`cuda`", "C++/CUDA, sm_80, sm_90, sm_100", ran],
        [
            "`triton`",
            "any GPU that Triton supports",
            ran if ran != never else f"tested in Triton's interpreter; {never}",
        ],
        ["`cpu`", "C++/OpenMP, AVX-512, AVX2 or baseline by what the machine has", "tested"],
        ["`reference`", "plain tensors, any device, float64-capable: the definition", "tested"],
    ]
    return table(["backend", "what it is", "state"], rows)


def plot_moons(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

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
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = list(found["seconds"])
    size = (1 + 4.5 * len(tasks), 5)
    figure, panels = pyplot.subplots(1, len(tasks), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for axes, task in zip(panels[0], tasks, strict=True):
        quality = QUALITY[task]
        rows = [row for row in found["rows"] if row["task"] == task]
        names = [row["name"] for row in rows]
        for number, marker in (("1", "o"), ("2", "s"), ("4", "^"), ("16", "x")):
            known = [(row["quality"][number], row["name"]) for row in rows if number in row["quality"]]
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


if __name__ == "__main__":
    main()
