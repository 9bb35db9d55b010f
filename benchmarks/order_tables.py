"""The table of :mod:`benchmarks.orders`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.tables import DECAYS, counted, of_result, over_seeds, provenance, table

ORDERS = (0, 1, 2, 3, 4, 6, 8)


@dataclass(frozen=True)
class Column:
    """What all orders are trained with.

    Args:
        decay: of the average.
        floor: where the relative first gap ends that falls from 1 during training; None for one gap throughout.
    """

    decay: float
    floor: float | None = None

    def __str__(self) -> str:
        return f"EMA {self.decay:g}" + ("" if self.floor is None else f", alpha from 1 to {self.floor:g}")


COLUMNS = (*map(Column, DECAYS), Column(0.99, 0.1), Column(0.99, 0.005))
Cell = tuple[int, Column]
CELLS: tuple[Cell, ...] = tuple(  # order 0 has no first gap
    (order, column) for order, column in itertools.product(ORDERS, COLUMNS) if order or column.floor is None
)


def cell_of(row: dict[str, Any]) -> Cell:
    """Where a row of the result belongs."""
    return row["order"], Column(row["decay"], row["floor"])


def cells_of(found: dict[str, Any]) -> dict[Cell, list[float] | None]:
    """Quality of one-step samples of the seeds by cell; None where one diverged, empty without a run."""
    cells: dict[Cell, list[float] | None] = {}
    for cell in CELLS:
        values = [row["quality"]["1"] for row in found["rows"] if cell_of(row) == cell]
        cells[cell] = None if None in values else values
    return cells


@of_result("orders")
def orders_table(found: dict[str, Any]) -> str:
    cells = cells_of(found)
    header = ["order", *map(str, COLUMNS)]
    rows = [[str(order), *(cell_text(cells, (order, column)) for column in COLUMNS)] for order in ORDERS]
    seeds = len({row["seed"] for row in found["rows"]})
    return (
        f"{table(header, rows)}\n\nFréchet distance of 1-step samples of the digits after {found['steps']:,} steps, "
        f"lower is better; {counted(seeds, 'seed')}. {provenance(found)}."
    )


def cell_text(cells: Mapping[Cell, list[float] | None], cell: Cell) -> str:
    """What stands in a cell."""
    values = cells.get(cell, [])
    if values is None:
        return "diverges"
    if not values:
        return "not trained" if cell in cells else ""
    return over_seeds(values, ".3g")


TABLES: Mapping[str, Callable[[], str]] = {"orders": orders_table}
