"""Peak memory of training published text-to-image networks, computed on tensors without content.

    python -m benchmarks.memory_plans                           all cases; half an hour
    python -m benchmarks.memory_plans --network sana_1600m      those of one network; the others stay as they are
    python -m benchmarks.memory_plans --missing                 those that the result file lacks

Sizes of the networks are those of published_transformers.json. SANA is trained in full, from float32 weights under
bfloat16 autocast; the others by LoRA (rank 64) on bfloat16 weights. Each case is computed for 1 and 8 cards, with the
same number of samples on each. Without checkpointing a few blocks are run and the rest added: blocks of a kind keep the
same memory for the backward.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import describe, read, write
from benchmarks.forward_mode import JvpMeanFlow, by_transform
from benchmarks.tables import of_result, provenance, table
from rcgm.config import fit_to_data, parse_config
from rcgm.data import DataInfo, TextInfo
from rcgm.inspection.memory import HEADROOM, peak_memories
from rcgm.objectives import MeanFlow

NETWORKS = json.loads((Path(__file__).parent / "published_transformers.json").read_text(encoding="utf-8"))
CARDS = (1, 8)
CARD = 80 * 2**30
CHECKPOINTING = ("none", "full")
FEW, MORE = 3, 2
"""Blocks of each kind of the networks that are computed, and how many more of a kind."""


@dataclass(frozen=True)
class Case:
    """How a network is trained: its samples on each card, and settings of the configuration.

    Args:
        title: in the table.
        rows: samples on each card.
        settings: of the configuration.
    """

    title: str
    rows: int
    settings: Mapping[str, Any]


LORA = {"tune": "lora", "lora": {"rank": 64, "alpha": 64}}
CASES = {
    "sana_1600m": Case("SANA-1.6B in full, 1024 pixels", 4, {}),
    "sd35_medium": Case("SD3.5-Medium LoRA, 1024 pixels", 2, LORA),
    "qwen_image": Case("Qwen-Image LoRA, 512 pixels", 1, LORA),
}
OBJECTIVES: Mapping[str, tuple[Mapping[str, Any], Callable[..., Any] | None]] = {
    "flow matching": ({"name": "flow_matching"}, None),
    "order 2": ({"name": "rcgm", "order": 2}, None),
    "central difference": ({"name": "mean_flow", "derivative": "central"}, None),
    "JVP without gradient": ({"name": "mean_flow", "derivative": "jvp"}, None),
    "JVP with gradient": ({"name": "mean_flow"}, JvpMeanFlow(MeanFlow(), by_transform, gradient=True)),
}
"""Objectives by their column: the section of a configuration, and what is called instead of it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=CASES, help="compute those of this network alone")
    parser.add_argument("--missing", action="store_true", help="keep what an earlier, cut run has computed")
    arguments = parser.parse_args()
    names = list(CASES) if arguments.network is None else [arguments.network]
    earlier = read("memory_plans")
    rows = (
        [] if earlier is None else [row for row in earlier["rows"] if arguments.missing or row["network"] not in names]
    )
    known = {(row["network"], row["checkpointing"], row["objective"]) for row in rows}
    for case in itertools.product(names, CHECKPOINTING, OBJECTIVES):
        if case not in known:
            row = computed(*case)
            print(line(row), file=sys.stderr, flush=True)
            rows.append(row)
            write("memory_plans", {"environment": describe(torch.device("cpu")), "card": CARD, "rows": rows})


def computed(name: str, checkpointing: str, objective: str) -> dict[str, Any]:
    """A row of the result file: bytes by part for each number of cards, or why the step cannot be made."""
    whole = blocks_of(NETWORKS[name]["config"])
    row = {"network": name, "objective": objective, "checkpointing": checkpointing, "rows": CASES[name].rows}
    of_blocks = partial(peaks_of, name, checkpointing, objective)
    try:
        # recomputed blocks hardly add to the peak, whose moment may then depend on their number
        peaks = grown(of_blocks, whole) if checkpointing == "none" else of_blocks(whole)
    except RuntimeError as error:
        return {**row, "problem": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
    return {**row, "peaks": dict(zip(map(str, CARDS), peaks, strict=True))}


def grown(peaks: Callable[[tuple[int, ...]], list[dict[str, float]]], whole: tuple[int, ...]) -> list[dict[str, float]]:
    """``peaks(whole)`` from networks of a few blocks, if the peak is at one moment for any number of them."""
    few = (FEW,) * len(whole)
    start = peaks(few)
    result = [dict(peak) for peak in start]
    for kind, blocks in enumerate(whole):
        more = peaks(tuple(FEW + MORE * (index == kind) for index in range(len(whole))))
        for total, low, high in zip(result, start, more, strict=True):
            for part in total:
                total[part] += (high[part] - low[part]) * (blocks - FEW) / MORE
    return result


def blocks_of(config: Mapping[str, Any]) -> tuple[int, ...]:
    """The number of blocks of each kind: with a second attention and without, where there are such."""
    second = len(config.get("dual_attention_layers", ()))
    return (second, config["num_layers"] - second) if second else (config["num_layers"],)


def with_blocks(config: Mapping[str, Any], blocks: tuple[int, ...]) -> dict[str, Any]:
    """``config`` with so many blocks of each kind."""
    changed = {**config, "num_layers": sum(blocks)}
    return {**changed, "dual_attention_layers": list(range(blocks[0]))} if len(blocks) > 1 else changed


def peaks_of(name: str, checkpointing: str, objective: str, blocks: tuple[int, ...]) -> list[dict[str, float]]:
    """Bytes by part for each of ``CARDS``, of the network with so many blocks of each kind."""
    network, case = NETWORKS[name], CASES[name]
    section, called = OBJECTIVES[objective]
    with tempfile.TemporaryDirectory() as folder:
        sizes = json.dumps(with_blocks(network["config"], blocks))
        (Path(folder) / "config.json").write_text(sizes, encoding="utf-8")
        info = info_of(network)
        values = {
            "steps": 1,
            "batch_size": case.rows,
            "precision": "bfloat16",
            "data": {"name": "encoded_pairs", "path": "nowhere"},
            "model": {
                "name": network["family"],
                "path": folder,
                "dtype": "bfloat16" if "tune" in case.settings else "float32",
            },
            "objective": dict(section),
            "parallel": {"activation_checkpointing": checkpointing},
            **case.settings,
        }
        config = fit_to_data(parse_config(values), info)
        return peak_memories(config, info, processes=CARDS, rows=case.rows, objective=called)


def info_of(network: Mapping[str, Any]) -> DataInfo:
    """The latents and conditions that a network is trained on."""
    tokens, channels = network["text"]
    tensors = {"text": (tokens, channels), "mask": (tokens,)}
    if "pooled" in network:
        tensors["pooled"] = (network["pooled"],)
    return DataInfo(tuple(network["latents"]), None, "images", text=TextInfo(network["family"], "", tensors))


def line(row: Mapping[str, Any]) -> str:
    sizes = row.get("problem") or ", ".join(f"{cards}: {_gib(peak):.1f} GiB" for cards, peak in row["peaks"].items())
    return f"{row['network']}, {row['objective']}, checkpointing {row['checkpointing']}: {sizes}"


@of_result("memory_plans")
def memory_table(found: dict[str, Any]) -> str:
    usable = found["card"] * (1 - HEADROOM)
    rows = []
    for name, case in CASES.items():
        mine = [row for row in found["rows"] if row["network"] == name]
        for cards in CARDS:
            for checkpointing in CHECKPOINTING:
                cells = [
                    _cell([row for row in mine if (row["objective"], row["checkpointing"]) == (column, checkpointing)],
                          cards, usable)
                    for column in OBJECTIVES
                ]  # fmt: skip
                rows.append([case.title, str(cards), str(case.rows), checkpointing, *cells])
    header = ["network", "cards", "samples a card", "activation checkpointing", *OBJECTIVES]
    return (
        f"{table(header, rows)}\n\nGiB at the peak of a card; bold does not fit 80 GiB less {HEADROOM:.0%}. Computed, "
        f"not measured on a GPU. {provenance(found)}."
    )


def _cell(rows: list[dict[str, Any]], cards: int, usable: float) -> str:
    if not rows:
        return "not computed"
    if "problem" in rows[0]:
        return "cannot be run"
    total = sum(rows[0]["peaks"][str(cards)].values())
    return f"{total / 2**30:.1f}" if total <= usable else f"**{total / 2**30:.1f}**"


def _gib(peak: Mapping[str, float]) -> float:
    return sum(peak.values()) / 2**30


TABLES: Mapping[str, Callable[[], str]] = {"memory_plans": memory_table}

if __name__ == "__main__":
    main()
