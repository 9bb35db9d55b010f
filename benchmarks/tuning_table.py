"""The table of :mod:`benchmarks.tuning`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.tables import of_result, provenance, table

MIB = 2**20


@of_result("tuning")
def tuning_table(found: dict[str, Any]) -> str:
    """What student, target and teacher hold in memory and in checkpoints."""
    header = ["student, target and teacher", "trained", "a checkpoint", "most memory beyond one network", "share"]
    whole = found["variants"]["copies"]["beyond_base"]
    rows = [
        [
            name,
            *(f"{measured[key] / MIB:.0f} MiB" for key in ("trained", "checkpoint", "beyond_base")),
            f"{measured['beyond_base'] / whole:.2f}",
        ]
        for name, measured in found["variants"].items()
    ]
    what = f"SANA of {found['base'] / MIB:.0f} MiB, batch {found['batch']}, rank {found['rank']}, float32"
    return f"{table(header, rows)}\n\n{what}; {provenance(found)}."


TABLES: Mapping[str, Callable[[], str]] = {"tuning": tuning_table}
