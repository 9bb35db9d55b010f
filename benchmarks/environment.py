"""Where and with what a result was measured."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from rcgm.files import write_atomically

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "docs" / "figures"
FOLDER_VARIABLE, COMMIT_VARIABLE = "RCGM_BENCHMARK_RESULTS", "RCGM_COMMIT"
RESULTS = Path(os.environ.get(FOLDER_VARIABLE) or Path(__file__).parent / "results")


def describe(device: torch.device) -> dict[str, Any]:
    """Device, versions, commit and date, for the head of a result file."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "commit": _commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def write(name: str, result: dict[str, Any], folder: Path | None = None) -> Path:
    """Write a result file atomically, to ``folder`` or the usual one."""
    path = (folder or RESULTS) / f"{name}.json"
    return write_atomically(path, json.dumps(result, indent=1) + "\n")


def read(name: str, folder: Path | None = None) -> dict[str, Any] | None:
    """A result file, or None where there is none."""
    path = (folder or RESULTS) / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def clocks(device: torch.device) -> dict[str, int] | None:
    """The clocks of a GPU's multiprocessors and memory at the moment, in MHz; None where they are not known."""
    if device.type != "cuda":
        return None
    query = ["nvidia-smi", f"--id={_uuid(device)}", "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10).stdout.split(",")
        return dict(zip(("sm", "memory"), map(int, found), strict=True))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _uuid(device: torch.device) -> str:
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    if given := os.environ.get(COMMIT_VARIABLE):  # where there is no repository
        return given
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        # new results do not make the code that they come from another
        status = ["git", "status", "--porcelain", "-uno", "--", ":/", ":(top,exclude)benchmarks/results"]
        changed = subprocess.run(status, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
