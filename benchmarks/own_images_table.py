"""The table of :mod:`benchmarks.own_images`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.tables import of_result, provenance, table
from rcgm.plots import steps_title


@of_result("own_images")
def own_images_table(found: dict[str, Any]) -> str:
    """What samples are worth, by steps of training and of sampling."""
    sampled = list(next(iter(found["evaluations"].values())))
    header = ["steps of training"]
    header += [f"{what}, {steps_title(int(steps))}" for steps in sampled for what in ("right", "Fréchet distance")]
    rows = []
    for trained, report in found["evaluations"].items():
        cells = [f"{int(trained):,}"]
        for measured in report.values():
            cells += [f"{measured['class_accuracy']:.3f}", f"{measured['frechet_distance']:.2f}"]
        rows.append(cells)
    last = list(found["evaluations"].values())[-1]
    floor = next(iter(last.values()))["frechet_floor"]
    minutes = found["train_seconds"] / 60
    where = f"floor {floor:.2f}; {found['steps']:,} steps in {minutes:.1f} minutes. {provenance(found)}."
    return f"{table(header, rows)}\n\n{where}"


TABLES: Mapping[str, Callable[[], str]] = {"own_images": own_images_table}
