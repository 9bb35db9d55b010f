"""Run in two processes by ``test_sharded.py``: steps of published networks, shared by both and made by one.

Writes a JSON file, as ``shared_steps.py`` does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rcgm.config import ParallelConfig
from rcgm.distributed import blocks_of, running_processes
from rcgm.networks import NETWORKS
from rcgm.objectives import RCGM
from tests.support.shared_steps import Problem, build_role, compared, run
from tests.support.tiny_networks import FAMILIES

ROWS = 4
TUNES = ("full", "lora")


def family_problem(name: str, tune: str) -> Problem:
    """A tiny network of the family; with ``tune`` lora, a role on it."""
    family = FAMILIES[name]

    def build() -> nn.Module:
        network = NETWORKS[name](family.build())
        return network if tune == "full" else build_role(network)

    x = torch.randn(ROWS, *family.latents, generator=torch.Generator().manual_seed(5))
    return Problem(build, x, family.cond(ROWS), family.cond(1, seed=2))


def main(path: Path) -> None:
    with running_processes("cpu") as processes:
        report: dict[str, Any] = {}
        for name in FAMILIES:
            for tune in TUNES:
                problem = family_problem(name, tune)
                largest = max(float(parameter.abs().max()) for parameter in problem.build().parameters())
                report[f"largest parameter, {name}, {tune}"] = largest
                options = {"problem": problem, "steps": 1}
                report[f"{name}, {tune}"] = compared(
                    lambda: RCGM(order=2, dt=0.1, label_dropout=0.3),
                    processes,
                    {"activation_checkpointing": "full"},
                    options,
                )
            options = {"problem": family_problem(name, "lora"), "steps": 2, "counted": True}
            _, counts = run(RCGM(order=2, dt=0.1), processes, ParallelConfig(), **options)
            report[f"gathers, {name}"] = [count["_allgather_base_"] for count in counts]
            report[f"blocks, {name}"] = len(blocks_of(NETWORKS[name](FAMILIES[name].build())))
        if processes.is_main:
            path.write_text(json.dumps(report, indent=1))
