"""The tables of the pages, made from the result files: one function a table, listed in ``TABLES`` at the end."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from benchmarks.environment import read
from rcgm.plots import steps_title

DECAYS = (0.0, 0.9, 0.99, 0.999)
QUALITY = {"digits": "Fréchet distance", "two_moons": "squared MMD"}
TASKS = {"digits": "digits", "two_moons": "two moons"}
QUALITY_OF_DIGITS = ("class accuracy", "Fréchet distance")
OTHER_VARIANTS = ("compile_over_fused", "published_over_fused")
NOT_MEASURED = "Not measured."


def of_result(name: str) -> Callable[[Callable[[dict[str, Any]], str]], Callable[[], str]]:
    """Make a table of the result file ``name``; where there is none, the table says so."""

    def decorate(make: Callable[[dict[str, Any]], str]) -> Callable[[], str]:
        @functools.wraps(make)
        def made() -> str:
            found = read(name)
            return NOT_MEASURED if found is None else make(found)

        return made

    return decorate


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def provenance(found: dict[str, Any]) -> str:
    where = found["environment"]
    return (
        f"{where['device']}, {where['cores']} cores, torch {where['torch']}, commit {where['commit']}, {where['date']}"
    )


def counted(count: int, what: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def judged(measured: dict[str, float]) -> list[str]:
    """The cells of QUALITY_OF_DIGITS."""
    return [f"{measured['class_accuracy']:.3f}", f"{measured['frechet_distance']:.2f}"]


@of_result("digits")
def digits_table(found: dict[str, Any]) -> str:
    rows = [
        [steps, *judged(measured), f"{measured['nearest_median_ratio']:.2f}"]
        for steps, measured in found["metrics"].items()
    ]
    header = ["sampling steps", *QUALITY_OF_DIGITS, "distance to the nearest training image, relative to real images"]
    config = found["config"]
    settings = (
        f"order {config['objective']['order']}, EMA {config['ema']['decay']:g}, {found['parameters']:,} parameters"
    )
    minutes = found["train_seconds"] / 60
    trained = f"{found['steps']:,} steps of {config['batch_size']} in {minutes:.1f} minutes"
    return f"{table(header, rows)}\n\n{settings}; {trained}. {provenance(found)}."


@of_result("digit_processes")
def digit_processes_table(found: dict[str, Any]) -> str:
    first = found["rows"][0]
    header = ["seed", "processes"]
    header += [f"{what}, {steps_title(int(steps))}" for steps in first["metrics"] for what in QUALITY_OF_DIGITS]
    header += [f"loss after {step} training steps" for step in first["losses"]]
    rows = [
        [
            str(row["seed"]),
            str(row["processes"]),
            *(cell for measured in row["metrics"].values() for cell in judged(measured)),
            *(f"{loss:.7g}" for loss in row["losses"].values()),
        ]
        for row in found["rows"]
    ]
    return f"{table(header, rows)}\n\n{provenance(found)}."


@of_result("digit_latents")
def digit_latents_table(found: dict[str, Any]) -> str:
    header = ["sampling steps", *QUALITY_OF_DIGITS]
    rows = [[what, *judged(measured)] for what, measured in found["metrics"].items()]
    return f"{table(header, rows)}\n\n{provenance(found)}."


@of_result("moons")
def moons_table(found: dict[str, Any]) -> str:

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
        f"{table(header, rows)}\n\nSquared MMD of 1-step samples after {short:,} steps, lower is better; between two "
        f"sets of real points it is {found['floor']:.4f}. {provenance(found)}."
    )


@of_result("objectives")
def objectives_table(found: dict[str, Any]) -> str:
    parts = []
    for task, quality in QUALITY.items():
        by_name: dict[str, list[dict[str, Any]]] = {}
        for row in found["rows"]:
            if row["task"] == task:
                by_name.setdefault(row["name"], []).append(row)
        if not by_name:
            continue
        cells = [
            [
                name,
                rows[0]["sampler"],
                *(_quality([row["quality"].get(n, "") for row in rows]) for n in ("1", "2", "4", "16")),
                _quality([row["measured"].get("1", {}).get("spread", "") for row in rows]),
                f"{mean(row['time_of_step'] for row in rows):.2f}",
                f"{mean(row['steps'] for row in rows):,.0f}",
                f"{mean(row['memory_mib'] for row in rows):.0f}",
                f"{mean(row['waves'] for row in rows):.2g}",
                f"{mean(row['evaluations'] for row in rows):.2g}",
                str(len(rows)),
            ]
            for name, rows in by_name.items()
        ]
        steps = [f"{quality}, {steps_title(n)}" for n in (1, 2, 4, 16)]
        header = [
            task,
            "sampler",
            *steps,
            "spread over that of data, 1 step",
            "step time, relative to flow matching",
            "steps trained",
            "peak memory beyond start, MiB",
            "waves (dependent forwards without gradient)",
            "evaluations without gradient",
            "seeds",
        ]
        parts.append(table(header, cells))
    spent = f"the time of {found['budget']:,.0f} steps of flow matching"
    parts.append(f"Each trained for {spent}, on one core; lower is better. {provenance(found)}.")
    return "\n\n".join(parts)


def over_seeds(values: Sequence[float], digits: str = ".2f") -> str:
    """Mean and deviation, the latter of two and more."""
    return f"{mean(values):{digits}}" + (f" ± {stdev(values):{digits}}" if len(values) > 1 else "")


def _quality(values: list[float | str | None]) -> str:
    """Over the seeds; an empty text stands for what has not been measured."""
    if None in values:
        return "diverges"
    known = [value for value in values if value != ""]
    return over_seeds(known, ".3g") if known else ""


def kernels_table() -> str:
    """A table for each result file and count of threads."""
    parts = []
    for name in ("cpu", "cuda", "short_cuda", "short_triton", "short_compile"):
        found = read(f"kernels_{name}")
        if found is None:
            continue
        by_threads: dict[int | None, list[dict[str, Any]]] = {}
        for row in found["rows"]:
            by_threads.setdefault(row["threads"], []).append(row)
        for threads, rows in sorted(by_threads.items()):
            if threads is not None:
                parts.append(f"On the CPU with {counted(threads, 'thread')}:")
            parts.append(_kernel_rows(rows))
        parts.append(f"{provenance(found)}.")
    return "\n\n".join(parts) if parts else NOT_MEASURED


def _kernel_rows(rows: list[dict[str, Any]]) -> str:
    header = ["operation", "shape", "dtype", "backend", "time relative to memcpy", "speed-up over eager"]
    header += ["speed-up over torch.compile", "speed-up over the published loop", "time relative to L2"]
    header += ["large allocations"]
    cells = [
        [
            row["operation"],
            "×".join(map(str, row["shape"])),
            row["dtype"],
            row["backend"],
            f"{row['times_floor']:.2f}",
            "" if row["eager_over_fused"] is None else f"{row['eager_over_fused']:.1f}",
            *("" if row.get(key) is None else f"{row[key]:.2f}" for key in (*OTHER_VARIANTS, "times_l2")),
            str(row["large_allocations"]),
        ]
        for row in rows
    ]
    return table(header, cells)


@of_result("kernels_cpu_before")
def kernels_before_table(before: dict[str, Any]) -> str:
    """Rows of the CPU that an earlier version of the kernels was measured in, beside those of today."""
    today = read("kernels_cpu")
    if today is None:
        return NOT_MEASURED

    def case(row: dict[str, Any]) -> tuple[str, ...]:
        return row["operation"], "×".join(map(str, row["shape"])), row["dtype"], str(row["threads"])

    now = {case(row): row for row in today["rows"]}
    ratios = ("times_floor", "eager_over_fused", "compile_over_fused")
    cells = [
        [*case(old), *(_both(old[ratio], now[case(old)][ratio]) for ratio in ratios)]
        for old in before["rows"]
        if case(old) in now
    ]
    header = ["operation", "shape", "dtype", "threads", "time relative to memcpy", "speed-up over eager"]
    header += ["speed-up over torch.compile"]
    return f"{table(header, cells)}\n\nBefore: {provenance(before)}. After: {provenance(today)}."


def _both(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"{before:.2f} → {after:.2f}"


@of_result("profile")
def profile_table(found: dict[str, Any]) -> str:
    rows = [
        [f"`{row['name']}`", str(row["calls"]), f"{row['ms']:.2f}", f"{row['share']:.1%}"]
        for row in found["operations"]
    ]
    shape = "×".join(map(str, (found["batch"], *found["shape"])))
    step = f"{found['variant']}, DiT {found['preset']}, {shape}, {found['autocast']}: {found['step_ms']:.1f} ms a step"
    if found["waits"] is not None:
        step += f", of which the device is busy for {found['device_ms']:.1f} ms; {found['launches']} launches, "
        step += f"{found['waits']} waits of the host"
    return f"{table(['operation', 'calls', 'ms', 'share'], rows)}\n\n{step}. {provenance(found)}."


def backends_table() -> str:
    gpu = read("gpu_check_a")
    never = "PTX for sm_90 run in an interpreter; **never run on a GPU**"
    ran = f"tested on {provenance(gpu)}" if gpu and gpu["passed"] else never
    rows = [
        ["`cuda`", "C++/CUDA, sm_80, sm_90, sm_100, sm_120", ran],
        ["`triton`", "any GPU that Triton supports", ran],
        ["`cpu`", "C++/OpenMP; AVX-512, AVX2 or baseline, chosen at run time", "tested"],
        ["`reference`", "plain tensors, any device, also in float64: the definition", "tested"],
    ]
    return table(["backend", "what it is", "state"], rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "digits": digits_table,
    "digit_processes": digit_processes_table,
    "digit_latents": digit_latents_table,
    "moons": moons_table,
    "objectives": objectives_table,
    "profile": profile_table,
    "kernels": kernels_table,
    "kernels_before": kernels_before_table,
    "backends": backends_table,
}
