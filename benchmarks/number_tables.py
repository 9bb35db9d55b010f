"""The tables of number formats, and of the error of the derivative along the path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.tables import of_result, provenance, table


@of_result("fidelity")
def fidelity_table(found: dict[str, Any]) -> str:
    rows = [
        [
            case["problem"],
            case["format"],
            f"{case['papers_step']:.2g}",
            f"{case['best']['central']['error']:.2g} at {case['best']['central']['step']:.2g}",
            f"{case['auto']['error']:.2g}",
            f"{case['auto_to_best']:.2f}",
            f"{case['best']['central, order 4']['error']:.2g}",
            f"{case['auto, 4']['error']:.2g}",
            f"{case['forward_mode']:.2g}",
        ]
        for case in found["cases"]
    ]
    header = ["network", "format", "step 0.005", "best fixed step", "`auto`", "`auto` / best"]
    header += ["order 4, best fixed step", "`auto` with 4 evaluations", "forward-mode AD"]
    return f"{table(header, rows)}\n\n{provenance(found)}."


@of_result("fidelity")
def roundings_table(found: dict[str, Any]) -> str:
    names = list(found["roundings"])
    rows = [
        [way, *(f"{found['roundings'][name][way]['error']:.2g}" for name in names)]
        for way in found["roundings"][names[0]]
    ]
    return table(["way to round in bfloat16", *(f"random, {name}" for name in names)], rows)


@of_result("fidelity")
def gaps_table(found: dict[str, Any]) -> str:
    columns = list(next(iter(found["gaps"].values())))
    rows = [[gap, *(f"{row[column]:.2g}" for column in columns)] for gap, row in found["gaps"].items()]
    return table(["`dt`", *columns], rows)


@of_result("target_formats")
def target_formats_table(found: dict[str, Any]) -> str:
    formats = ["bfloat16", "float16", "float32"]
    by_method: dict[str, dict[str, str]] = {}
    for row in found["rows"]:
        spread = "" if row["spread"] is None else f" ± {row['spread']:.2f}"
        by_method.setdefault(row["method"], {})[row["format"]] = f"{row['mean']:.2f}{spread}"
    rows = [[method, *(cells[name] for name in formats)] for method, cells in by_method.items()]
    seeds = len({run["seed"] for run in found["runs"]})
    return (
        f"{table(['Fréchet distance of 1-step samples, by format of the targets', *formats], rows)}\n\n"
        f"{found['steps']:,} steps, mean and standard deviation of {seeds} seeds. {provenance(found)}."
    )


@of_result("float8_targets")
def float8_table(found: dict[str, Any]) -> str:
    rows = [
        [
            row["problem"],
            row["format"],
            f"{row['papers_step']:.2g}",
            f"{row['best']['error']:.2g} at {row['best']['step']:.2g}",
            *(f"{error:.2g}" for error in row["residual"].values()),
        ]
        for row in found["rows"]
    ]
    gaps = [f"residual, dt {dt}" for dt in found["rows"][0]["residual"]]
    header = ["network", "format of the forwards", "dF/dt, step 0.005", "dF/dt, best step", *gaps]
    return f"{table(header, rows)}\n\n{provenance(found)}."


TABLES: Mapping[str, Callable[[], str]] = {
    "fidelity": fidelity_table,
    "roundings": roundings_table,
    "gaps": gaps_table,
    "target_formats": target_formats_table,
    "float8": float8_table,
}
