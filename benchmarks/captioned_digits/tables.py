"""The tables of :mod:`benchmarks.captioned_digits`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import mean, stdev
from typing import Any

from benchmarks.tables import of_result, provenance, table
from rcgm.plots import steps_title

MEASURES = {"right": "right", "frechet_distance": "Fréchet distance", "spread": "spread"}
BY_KIND_STEPS = 2


@of_result("captioned_digits")
def measures_table(found: dict[str, Any]) -> str:
    """Prompts right, Fréchet distance and spread of every model, by steps of sampling; means over the seeds."""
    first = found["seeds"][0]["models"]
    sampled = list(next(iter(first.values())))
    header = ["model", "sampling steps", *MEASURES.values()]
    rows = [["real pictures of other digits", "", *(f"{found['real'][name]:.2f}" for name in MEASURES)]]
    for model in first:
        for steps in sampled:
            cells = [_over_seeds(found, model, steps, name) for name in MEASURES]
            rows.append([model, steps, *cells])
    trained = found["steps"]
    minutes = mean(seed["seconds"] for seed in found["seeds"]) / 60
    length = f"{len(found['seeds'])} seeds of {minutes:.0f} minutes"
    note = (
        f"The judge reads {found['judge']:.3f} of real pictures right. {trained['multi_step']:,} steps of flow "
        f"matching, {trained['few_step']:,} of each few-step model; {length}. {provenance(found)}."
    )
    return f"{table(header, rows)}\n\n{note}"


@of_result("captioned_digits")
def kinds_table(found: dict[str, Any]) -> str:
    """Prompts right by kind, of samples of two steps."""
    first = found["seeds"][0]["models"]
    steps = str(BY_KIND_STEPS)
    kinds = [name for name in next(iter(first.values()))[steps] if name.startswith("right: ")]
    header = [f"right, {steps_title(BY_KIND_STEPS)}", *(kind.removeprefix("right: ") for kind in kinds)]
    return table(header, [[model, *(_over_seeds(found, model, steps, kind) for kind in kinds)] for model in first])


def _over_seeds(found: dict[str, Any], model: str, steps: str, name: str) -> str:
    values = [seed["models"][model][steps][name] for seed in found["seeds"]]
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


TABLES: Mapping[str, Callable[[], str]] = {
    "captioned_digits": measures_table,
    "captioned_digits_kinds": kinds_table,
}
