"""The table of :mod:`benchmarks.orders`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.tables import DECAYS, of_result, over_seeds, provenance, table

ORDERS = (0, 1, 2, 3, 4, 6, 8)


def cells_of(found: dict[str, Any]) -> dict[tuple[int, float], list[float] | None]:
    """Quality of one-step samples of the seeds by order and decay; None where one diverged, empty without a run."""
    cells: dict[tuple[int, float], list[float] | None] = {}
    for order, decay in itertools.product(ORDERS, DECAYS):
        values = [row["quality"]["1"] for row in found["rows"] if (row["order"], row["decay"]) == (order, decay)]
        cells[order, decay] = None if None in values else values
    return cells


@of_result("orders")
def orders_table(found: dict[str, Any]) -> str:
    cells = cells_of(found)
    header = ["order", *(f"EMA {decay:g}" for decay in DECAYS)]
    rows = [[str(order), *(cell_text(cells[order, decay]) for decay in DECAYS)] for order in ORDERS]
    seeds = len({row["seed"] for row in found["rows"]})
    return (
        f"{table(header, rows)}\n\nFréchet distance of 1-step samples of the digits after {found['steps']:,} steps, "
        f"lower is better; {seeds} seed{'' if seeds == 1 else 's'}. {provenance(found)}."
    )


def cell_text(values: list[float] | None) -> str:
    """What stands in a cell."""
    if values is None:
        return "diverges"
    return over_seeds(values, ".3g") if values else "not trained"


TABLES: Mapping[str, Callable[[], str]] = {"orders": orders_table}
