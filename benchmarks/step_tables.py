"""The tables of the training-step and capacity benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.environment import read
from benchmarks.tables import NOT_MEASURED, provenance, table

DEVICES = ("cuda", "cpu")
MIB, GIB = 2**20, 2**30


def steps_table() -> str:
    """Step time relative to flow matching, and memory, by preset and batch; below, the two families compared."""
    return _of_devices("steps", _steps_of)


def _steps_of(found: dict[str, Any]) -> str:
    parts = []
    for preset in dict.fromkeys(row["preset"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["preset"] == preset]
        batches = list(dict.fromkeys(row["batch"] for row in rows))
        header = [f"DiT-{preset}", "form", *(f"batch {batch}" for batch in batches)]
        header += [f"memory, batch {batches[-1]}, MiB"]
        lines = []
        for variant, compiler in dict.fromkeys((row["variant"], row["compiler"]) for row in rows):
            own = {row["batch"]: row for row in rows if (row["variant"], row["compiler"]) == (variant, compiler)}
            last = own[batches[-1]]["peak_bytes"]
            memory = "" if last is None else f"{last / MIB:,.0f}"
            lines.append([variant, compiler or "eager", *(_cell(own[batch]) for batch in batches), memory])
        verdict = " ".join(filter(None, (_verdict(rows, batch) for batch in batches)))
        parts.append(f"{table(header, lines)}\n\n{verdict}")
    note = f" Note: {found['note']}." if found["note"] else ""
    parts.append(
        f"Step time relative to flow matching in the same form; medians of {found['rounds']} rounds, "
        f"{found['autocast']}. {provenance(found)}.{note}"
    )
    return "\n\n".join(parts)


def _cell(row: dict[str, Any]) -> str:
    if row["error"] is not None:
        return row["error"].partition(":")[0]
    if row["times_flow_matching"] is None:
        return "ran; flow matching did not"
    speed = f" ({row['images_per_second']:,.0f}/s)" if "images_per_second" in row else ""
    return f"{row['times_flow_matching']:.2f}{speed}"


def _verdict(rows: list[dict[str, Any]], batch: int) -> str:
    """The best form of forward mode, relative to the difference and to order 2, whichever is faster."""
    ran = [row for row in rows if row["batch"] == batch and row["times_flow_matching"] is not None]

    def best(family: str, start: str = "") -> dict[str, Any] | None:
        own = [row for row in ran if row["family"] == family and row["variant"].startswith(start)]
        return min(own, key=lambda row: row["relative_time"], default=None)

    jvp, rcgm, difference = best("jvp"), best("rcgm", "RCGM, order 2"), best("difference")
    if jvp is None or rcgm is None or difference is None:
        return ""
    form = "" if jvp["compiler"] is None else f" ({jvp['compiler']})"
    return (
        f"Batch {batch}: the best form of forward mode, {jvp['variant'].removeprefix('MeanFlow, ')}{form}, takes "
        f"{jvp['relative_time'] / rcgm['relative_time']:.2f} times as long as RCGM of order 2 and "
        f"{jvp['relative_time'] / difference['relative_time']:.2f} times as long as the central difference, and "
        f"{jvp['peak_bytes'] / difference['peak_bytes']:.2f} times the memory."
    )


def limits_table() -> str:
    """What forward mode cannot be combined with."""
    return _of_devices("steps", _limits_of)


def _limits_of(found: dict[str, Any]) -> str:
    rows = [[item["combination"], item["outcome"].replace("|", "\\|")] for item in found["limits"]]
    return f"{table(['`torch.func.jvp` with', 'what happens'], rows)}\n\n{provenance(found)}."


def capacity_table() -> str:
    """The largest batch and network by objective."""
    return _of_devices("capacity", _capacity_of)


def _capacity_of(found: dict[str, Any]) -> str:
    rows = [
        [row["variant"], row["error"], "", ""]
        if row["error"]
        else [
            row["variant"], str(row["batch"]["fits"]), f"{row.get('parameters', 0) / 1e6:,.1f}",
            f"{row['heads']['fits']}{'' if row['heads']['fails'] else ' or more'}",
        ]
        for row in found["rows"]
    ]  # fmt: skip
    memory = f"{found['bytes'] / GIB:.1f} GiB" if not found["small"] else f"a budget of {found['bytes'] / MIB:.0f} MiB"
    base = "a DiT of 4 heads of 16" if found["small"] else "DiT-XL/2"
    header = ["objective", f"largest batch, {base}", "largest network, million parameters, batch 4", "its heads"]
    return f"{table(header, rows)}\n\nWithin {memory}; sizes are found to within an eighth. {provenance(found)}."


def _of_devices(name: str, text: Callable[[dict[str, Any]], str]) -> str:
    found = [known for device in DEVICES if (known := read(f"{name}_{device}")) is not None]
    return "\n\n".join(text(known) for known in found) if found else NOT_MEASURED


TABLES: Mapping[str, Callable[[], str]] = {
    "steps": steps_table,
    "limits": limits_table,
    "capacity": capacity_table,
}
