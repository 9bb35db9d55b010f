"""Runs the steps of a part, each within its limit, and writes what is known after each."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import environment
from benchmarks.gpu_check.steps import ROOT, Step, steps

__all__ = ["run", "run_all"]

TAIL = 3000
DRY_RUN_FOLDER = ROOT / "build" / "gpu_check_dry_run"
VERDICTS = {True: "ok", False: "FAILED", None: "not possible here"}


def run_all(part: str, wanted: list[Step], *, dry_run: bool, resume: bool, seconds: float) -> int:
    """Run the steps, write what is known after each, and return the exit code."""
    end = time.perf_counter() + seconds
    before = _succeeded(part, dry_run) if resume else {}
    done: list[dict[str, Any]] = []
    for step in wanted:
        entry = before.get(step.name) or run(step, min(step.limit, end - time.perf_counter()), dry_run)
        done.append(entry)
        write(part, done, dry_run)
        reason = f"  ({entry['output']})" if entry["ok"] is None else ""
        print(f"{step.name:<15} {VERDICTS[entry['ok']]:<18} {entry['seconds']:6.1f} s{reason}", flush=True)
        if step.name == "build" and not entry["ok"]:
            break
    path = write(part, done, dry_run)
    print(f"{sum(entry['seconds'] for entry in done):.0f} s in all; written to {path}")
    return int(any(entry["ok"] is False for entry in done))


def write(part: str, done: list[dict[str, Any]], dry_run: bool) -> Path:
    """What is known so far. ``passed`` needs a GPU, and every step of the list that was possible."""
    gpu = torch.cuda.is_available()
    ran = {entry["name"]: entry["ok"] for entry in done}
    needed = [step.name for step in steps(part, dry_run) if step.name != "build"]  # without it the others fail
    passed = gpu and not dry_run and all(ran.get(name, False) is not False for name in needed)
    result = {"environment": environment.describe(_device()), "passed": passed, "steps": done}
    return environment.write(f"gpu_check_{part}", result, _folder(dry_run))


def run(step: Step, limit: float, dry_run: bool) -> dict[str, Any]:
    """Run one step; what it printed last is kept, also when it is stopped at its limit."""
    if step.impossible is not None:
        return {"name": step.name, "ok": None, "seconds": 0.0, "output": step.impossible}
    if limit <= 0:
        return {"name": step.name, "ok": False, "seconds": 0.0, "output": "no time was left"}
    begin = time.perf_counter()
    # a session of its own, so that compilers and workers end with it
    variables = {**os.environ, environment.FOLDER_VARIABLE: str(_folder(dry_run)), **step.variables}
    process = subprocess.Popen(
        step.command, cwd=ROOT, env=variables, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=limit)
        ok = process.returncode == 0
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        ok, output = False, f"{output}\nstopped after {limit:.0f} s"
    if not ok:
        print(output[-TAIL:], flush=True)
    return {"name": step.name, "ok": ok, "seconds": time.perf_counter() - begin, "output": output[-TAIL:]}


def _succeeded(part: str, dry_run: bool) -> dict[str, dict[str, Any]]:
    """The steps that have succeeded at this very commit, by name."""
    found, here = environment.read(f"gpu_check_{part}", _folder(dry_run)), environment.describe(_device())
    if found is None or any(found["environment"][key] != here[key] for key in ("device", "torch", "commit")):
        return {}
    return {entry["name"]: entry for entry in found["steps"] if entry["ok"]}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _folder(dry_run: bool) -> Path:
    return DRY_RUN_FOLDER if dry_run else environment.RESULTS
