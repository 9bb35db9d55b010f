"""Keeps the result of the digits run of ``make demo``.

python -m benchmarks.digits            reads runs/digits, which `make demo` leaves
python -m benchmarks.digits RUN_DIR    reads another run of the digits
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

from benchmarks import environment

PICTURES = {"samples.png": "digits.png", "training.png": "digits_training.png", "training.gif": "digits_training.gif"}
"""Names under docs/figures, by the files of the run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs/digits"))
    run = parser.parse_args().run
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    result = {
        "environment": environment.describe(torch.device("cpu")),
        "steps": summary["steps"],
        "train_seconds": summary["wall_time_seconds"],
        "parameters": summary["parameters"],
        "config": summary["config"],
        "metrics": summary["evaluation"],
    }
    print(f"written to {environment.write('digits', result)}")
    for picture, name in PICTURES.items():
        shutil.copyfile(run / picture, environment.FIGURES / name)


if __name__ == "__main__":
    main()
