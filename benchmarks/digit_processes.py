"""Compares the quality of configs/digits.yaml trained by several processes with that of one.

rcgm train configs/digits.yaml device=cpu seed=1 --output runs/one
torchrun --nproc_per_node=2 -m rcgm.cli train configs/digits.yaml device=cpu seed=1 --output runs/two
python -m benchmarks.digit_processes runs/one runs/two ...
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import environment
from rcgm.runs.folder import RunFolder
from rcgm.runs.metrics import read_metrics

STEPS = (50, 300)
"""Of training, whose losses are kept beside the last: at first runs differ by rounding alone."""


def row(run: Path) -> dict[str, Any]:
    """What a finished run tells of itself."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    records = read_metrics(RunFolder(run).metrics)
    losses = {record["step"]: record["loss"] for record in records if "loss" in record}
    return {
        "seed": summary["config"]["seed"],
        "processes": summary["processes"],
        "metrics": summary["evaluation"],
        "losses": {str(step): loss for step, loss in losses.items() if step in STEPS or step == summary["steps"]},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="finished runs of the digits")
    rows = [row(run) for run in parser.parse_args(arguments).runs]
    result = {
        "environment": environment.describe(torch.device("cpu")),
        "rows": sorted(rows, key=lambda one: (one["seed"], one["processes"])),
    }
    print(f"written to {environment.write('digit_processes', result)}")


if __name__ == "__main__":
    main()
