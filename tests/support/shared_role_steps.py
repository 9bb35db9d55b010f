"""Run in two processes by ``test_shared_roles.py``: steps of roles on one base, shared by both and made by one.

Writes a JSON file, as ``shared_steps.py`` does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rcgm.config import ParallelConfig
from rcgm.distributed import running_processes
from rcgm.distributed.shares import Processes
from rcgm.objectives import RCGM, MeanFlow
from tests.support.shared_steps import JUDGED, compared, distance, run

ROLES = {"base": torch.float64}
MIXED = {"base": torch.bfloat16, "dtype": torch.float32}
OBJECTIVES: dict[str, Callable[[], Any]] = {
    "order 2": lambda: RCGM(order=2, dt=0.1, label_dropout=0.3),
    "the student's own derivative": MeanFlow,
    "teacher": lambda: RCGM(dt=0.1, supervision="teacher"),
}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "order 2": ("order 2", {}, {}),
    "gathered in every wave": ("order 2", {"keep_target_gathered": False}, {}),
    "without average": ("order 2", {}, {"decay": 0.0}),
    "accumulation": ("order 2", {}, {"accumulate": 2}),
    "two averages": ("order 2", {}, {"target_decay": 0.5}),
    "replicate": ("order 2", {"shard": "replicate"}, {}),
    "full recomputation": ("order 2", {"activation_checkpointing": "full"}, {}),
    "selective recomputation": ("teacher", {"activation_checkpointing": "selective"}, {"distilled": True}),
    "teacher": ("teacher", {}, {"distilled": True}),
    "discriminator": ("teacher", {}, JUDGED),
    "discriminator, micro-batches": (
        "teacher",
        {"activation_checkpointing": "full", "keep_target_gathered": False},
        {**JUDGED, "accumulate": 2, "compile": "aot_eager"},
    ),
    "the student's own derivative": ("the student's own derivative", {}, {}),
    "compiled, and everything": (
        "teacher",
        {"activation_checkpointing": "selective", "keep_target_gathered": False},
        {"accumulate": 2, "compile": "eager", "distilled": True},
    ),
}


def main(path: Path) -> None:
    with running_processes("cpu") as processes:
        report: dict[str, Any] = {}
        for name, (objective, parallel, options) in CASES.items():
            report[name] = compared(OBJECTIVES[objective], processes, parallel, {**ROLES, **options})
        for kept in (True, False):
            for order in (1, 2, 4):
                build = RCGM(order=order, dt=0.1, points="jump", supervision="teacher")
                parallel = ParallelConfig(keep_target_gathered=kept)
                _, counts = run(build, processes, parallel, counted=True, distilled=True, **ROLES)
                report[f"gathers, kept {kept}, order {order}"] = [count["_allgather_base_"] for count in counts]
        expected, _ = run(OBJECTIVES["order 2"](), Processes(), ParallelConfig(), **MIXED)
        shared, counts = run(OBJECTIVES["order 2"](), processes, ParallelConfig(), counted=True, **MIXED)
        report["mixed"] = distance(expected, shared)
        report["mixed dtypes"] = sorted({str(tensor.dtype) for tensor in shared["parameters"]})
        report["mixed gathers"] = [count["_allgather_base_"] for count in counts]
        if processes.is_main:
            path.write_text(json.dumps(report, indent=1))
