"""The one comparison of the first page: a training step of order 2 against forward-mode AD."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.environment import read
from benchmarks.tables import of_result, provenance

Row = dict[str, Any]


def compared(found: dict[str, Any]) -> tuple[str, int]:
    """Preset and batch of the comparison: the last ones where flow matching, order 2 and forward mode all ran."""
    ran: dict[tuple[str, int], set[str]] = {}
    for row in found["rows"]:
        if row["relative_time"] is not None:
            ran.setdefault((row["preset"], row["batch"]), set()).add(row["family"])
    return [case for case, families in ran.items() if families >= {"flow matching", "rcgm", "jvp"}][-1]


def contenders(found: dict[str, Any]) -> list[tuple[str, Row]]:
    """Names and rows of the bars: the fastest of each family, and the form of forward mode with the least memory."""
    ran = [row for row in _of_case(found) if row["relative_time"] is not None]

    def best(key: str, family: str, start: str = "") -> Row:
        own = [row for row in ran if row["family"] == family and row["variant"].startswith(start)]
        return min(own, key=lambda row: (row[key], row["relative_time"]))

    bars = [
        ("flow matching", best("relative_time", "flow matching")),
        ("RCGM, order 2", best("relative_time", "rcgm", "RCGM, order 2")),
        ("JVP, fastest form", best("relative_time", "jvp")),
    ]
    least = best("peak_bytes", "jvp")
    return bars if least is bars[-1][1] else [*bars, ("JVP, form with least memory", least)]


@of_result("steps_cpu")
def headline_table(found: dict[str, Any]) -> str:
    """The comparison in words, for the README."""
    rows = dict(contenders(found))
    order2, fast = rows["RCGM, order 2"], rows["JVP, fastest form"]
    least = rows.get("JVP, form with least memory", fast)
    preset, batch = compared(found)
    gpu = read("gpu_check_a")
    ran = "" if gpu is not None and gpu["passed"] else " **Nothing has run on a GPU yet.**"
    return (
        f"A training step of RCGM, order 2, takes {order2['relative_time']:.2f} times as long as flow matching "
        f"in the same memory. The fastest form of MeanFlow with a Jacobian-vector product takes "
        f"{fast['relative_time']:.2f} times as long and {_memory(fast, rows):.2f} times the memory; the form with the "
        f"least memory takes {least['relative_time']:.2f} times as long. DiT-{preset}, batch {batch}, "
        f"{found['autocast']}, on a CPU: {provenance(found)}.{ran}"
    )


def _memory(row: Row, rows: Mapping[str, Row]) -> float:
    return row["peak_bytes"] / rows["flow matching"]["peak_bytes"]


def _of_case(found: dict[str, Any]) -> list[Row]:
    preset, batch = compared(found)
    return [row for row in found["rows"] if (row["preset"], row["batch"]) == (preset, batch)]


TABLES: Mapping[str, Callable[[], str]] = {"headline": headline_table}
