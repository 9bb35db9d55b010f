"""The tables of :mod:`benchmarks.captioned_digits`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import mean
from typing import Any

from benchmarks.captioned_digits.names import GUIDANCE, GUIDED, HELD_OUT, MANY, MULTI_STEP, NAME
from benchmarks.tables import counted, of_result, over_seeds, provenance, table
from rcgm.plots import steps_title

MEASURES = {
    "right": "prompts right",
    f"right: {HELD_OUT}": "held-out combinations right",
    "frechet_distance": "Fréchet distance",
    "spread": "spread",
}
BY_KIND_STEPS = 2


@of_result(NAME)
def measures_table(found: dict[str, Any]) -> str:
    """What samples of every model are worth, by steps of sampling; means over the seeds."""
    rows = [["real pictures of other digits", "", *(f"{found['real'][name]:.2f}" for name in MEASURES), ""]]
    for model, of_seeds in _by_model(found).items():
        for steps in of_seeds[0]["measures"]:
            values = {name: [row["measures"][steps][name] for row in of_seeds] for name in MEASURES}
            ratio = [row["measures"][steps]["frechet_distance"] / _multi_step(found, row["seed"]) for row in of_seeds]
            rows.append([model, steps, *map(over_seeds, values.values()), over_seeds(ratio)])
    header = ["model", "sampling steps", *MEASURES.values(), f"Fréchet distance, of that of {MANY} guided steps"]
    return f"{table(header, rows)}\n\n{_note(found)}"


@of_result(NAME)
def kinds_table(found: dict[str, Any]) -> str:
    """Prompts right by kind."""
    of_seeds = _by_model(found)
    steps = {model: str(MANY if model in (MULTI_STEP, GUIDED) else BY_KIND_STEPS) for model in of_seeds}
    kinds = [name for name in found["real"] if name.startswith("right: ")]
    header = ["prompts right", *(kind.removeprefix("right: ") for kind in kinds)]
    rows = [
        [
            f"{model}, {steps_title(int(steps[model]))}",
            *(over_seeds([row["measures"][steps[model]][kind] for row in rows]) for kind in kinds),
        ]
        for model, rows in of_seeds.items()
    ]
    return table(header, rows)


@of_result(f"{NAME}_alone")
def alone_note(found: dict[str, Any]) -> str:
    """How long one seed was trained with nothing beside it."""
    return _note(found)


def _by_model(found: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {
        model: [row for row in found["rows"] if row["model"] == model]
        for model in dict.fromkeys(row["model"] for row in found["rows"])
    }


def _multi_step(found: dict[str, Any], seed: int) -> float:
    """Fréchet distance of the guided multi-step model of a seed."""
    row = next(row for row in found["rows"] if (row["model"], row["seed"]) == (GUIDED, seed))
    return row["measures"][str(MANY)]["frechet_distance"]


def _note(found: dict[str, Any]) -> str:
    """What was trained, for how long; models that fewer seeds have say so."""
    trained = {model: rows for model, rows in _by_model(found).items() if model != GUIDED}
    minutes = {model: mean(row["seconds"] for row in rows) / 60 for model, rows in trained.items()}
    seeds = max(map(len, trained.values()))
    models = "; ".join(
        f"{model}: {rows[0]['steps']:,} steps, {minutes[model]:.1f} minutes"
        + (f", {counted(len(rows), 'seed')}" if len(rows) < seeds else "")
        for model, rows in trained.items()
    )
    length = f"{counted(seeds, 'seed')}, trained for {sum(minutes.values()):.0f} minutes{' each' * (seeds > 1)}"
    judged = f"The judge reads {found['judge']:.3f} of real pictures right. Guidance {GUIDANCE}."
    return f"{judged} {length} ({models}). {provenance(found)}."


TABLES: Mapping[str, Callable[[], str]] = {
    "captioned_digits": measures_table,
    "captioned_digits_kinds": kinds_table,
    "captioned_digits_alone": alone_note,
}
