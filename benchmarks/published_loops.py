"""The objectives against the published training loops, in float64: value, gradient of the parameters and its scale.

    python -m benchmarks.published_loops     seconds; writes results/published_loops.json, the table of the docs

The loops are those of ``tests/support``, written down from their formulas at the scale of their authors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch

from benchmarks import environment
from benchmarks.tables import of_result, provenance, table
from tests.support.published_cases import CASES, compare


def measure() -> list[dict[str, object]]:
    """A row for each loop and its options."""
    rows = []
    for case in CASES:
        rows.append({"loop": case.loop, "options": case.options, **asdict(compare(case))})
        print(rows[-1], flush=True)
    return rows


@of_result("published_loops")
def published_loops_table(found: dict[str, Any]) -> str:
    header = ["loop", "options", "difference of the value", "of the gradient", "norm of the gradient, ours / theirs"]
    rows = [
        [
            row["loop"],
            row["options"],
            "(scale of its own)" if row["value"] is None else _size(row["value"]),
            _size(row["gradient"]),
            f"{row['ratio']:.4f}",
        ]
        for row in found["rows"]
    ]
    return f"{table(header, rows)}\n\nRelative, in float64. {provenance(found)}."


def _size(value: float) -> str:
    return "0" if value == 0 else f"{value:.0e}"


TABLES: Mapping[str, Callable[[], str]] = {"published_loops": published_loops_table}


def main() -> None:
    began = time.perf_counter()
    result = {"environment": environment.describe(torch.device("cpu")), "rows": measure()}
    result["seconds"] = time.perf_counter() - began
    print(f"written to {environment.write('published_loops', result)} in {result['seconds']:.0f} s")


if __name__ == "__main__":
    main()
