"""Everything that needs a GPU, in one command of under ten minutes, from a bare clone.

    python -m benchmarks.gpu_check            build, check, measure; writes results/gpu_check.json beside the results of
                                              each step
    python -m benchmarks.gpu_check --resume   only the steps that have not succeeded at this commit
    python -m benchmarks.gpu_check --dry-run  the same steps, small, on a machine without a GPU; results go to
                                              build/gpu_check_dry_run

Every step has a limit, and all of them together ``--seconds``: what is late is stopped, with all its processes, and the
next begins. The file is written after each step, so that a run that is cut short leaves what it had. The build is not
isolated, so that it works without a network: setuptools and pybind11 must be there, pytest and hypothesis for the
tests, and for the training steps what `pip install '.[train]'` brings. What is missing may also lie in a folder that
``PYTHONPATH`` names (wheels unpacked by `python -m zipfile -e WHEEL FOLDER`).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import environment
from rcgm.cli.errors import PACKAGES

ROOT = Path(__file__).parent.parent
TAIL = 3000
DRY_RUN_FOLDER = ROOT / "build" / "gpu_check_dry_run"
TEST_PACKAGES = ("pytest", "hypothesis")
VERDICTS = {True: "ok", False: "FAILED", None: "not possible here"}


@dataclass(frozen=True)
class Step:
    """A command, the seconds it may take, and why it cannot run here, if so."""

    name: str
    command: list[str]
    limit: float
    variables: dict[str, str] = field(default_factory=dict)
    impossible: str | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="go through the steps without a GPU")
    parser.add_argument("--resume", action="store_true", help="leave out what has succeeded at this commit")
    parser.add_argument("--only", nargs="+", default=None, help="names of steps")
    parser.add_argument("--seconds", type=float, default=580.0, help="for all steps together (580)")
    given = parser.parse_args(arguments)
    if not torch.cuda.is_available() and not given.dry_run:
        raise SystemExit("no GPU that torch can use was found; --dry-run goes through the steps without one")
    known = steps(given.dry_run)
    if given.only is not None and (unknown := set(given.only) - {step.name for step in known}):
        parser.error(f"--only must name some of {', '.join(step.name for step in known)}, got {', '.join(unknown)}")
    wanted = [step for step in known if given.only is None or step.name in given.only]
    sys.exit(run_all(wanted, given.dry_run, given.resume, given.seconds))


def steps(dry_run: bool) -> list[Step]:
    """What is done, the most telling first."""

    def module(name: str, *options: str) -> list[str]:
        return [sys.executable, "-m", f"benchmarks.{name}", *options]

    def sanitizer(tool: str) -> Step:
        missing = None if shutil.which("compute-sanitizer") else "compute-sanitizer was not found"
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *module("every_kernel")]
        return Step(tool, command, 60, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, missing)

    def lacking(packages: Sequence[str]) -> str | None:
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        return f"not installed: {', '.join(missing)}" if missing else None

    no_training, no_tests = lacking(PACKAGES["train"]), lacking(TEST_PACKAGES)
    build = [sys.executable, "setup.py", "build_ext", "--inplace"]
    pytest = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "tests/rcgm_kernels"]
    if dry_run:
        train = module("steps", "--preset", "nano/2", "--batches", "2", "--rounds", "2")
        return [
            Step("build", build, 240, {"RCGM_CUDA": "0"}),
            Step("accuracy", module("accuracy", "--largest", "10000"), 120),
            Step("kernels", module("kernels", "--rounds", "2", "--first", "1"), 120),
            Step("steps", train, 120, impossible=no_training),
            sanitizer("memcheck"),
            sanitizer("racecheck"),
            Step("cuda_tests", [*pytest, "-k", "test_coefficients"], 120, impossible=no_tests),
            Step("triton_tests", [*pytest, "-k", "test_triton and upstream"], 120, impossible=no_tests),
        ]
    train = module(
        "steps", "--preset", "XL/2", "--batches", "4", "32", "--rounds", "4", "--seconds", "40", "--compiler", "none",
        "--name", "steps_short_cuda",
    )  # fmt: skip
    return [
        Step("build", build, 180, {"RCGM_CUDA": "1", "RCGM_CUDA_ARCHS": _architecture()}),
        Step("accuracy", module("accuracy"), 90),
        Step("kernels", module("kernels", "--rounds", "20"), 150),
        Step("steps", train, 75, impossible=no_training),
        sanitizer("memcheck"),
        sanitizer("racecheck"),
        # not those of the emulated device, nor what compiles for other architectures: both need no GPU
        Step("cuda_tests", [*pytest, "-k", "gpu"], 90, impossible=no_tests),
        Step("triton_tests", [*pytest, "-k", "test_triton and not compiles"], 120, impossible=no_tests),
    ]


def run_all(wanted: list[Step], dry_run: bool, resume: bool, seconds: float) -> int:
    """Run the steps, write what is known after each, and return the exit code."""
    end = time.perf_counter() + seconds
    before = _succeeded(dry_run) if resume else {}
    done: list[dict[str, Any]] = []
    for step in wanted:
        entry = before.get(step.name) or run(step, min(step.limit, end - time.perf_counter()), dry_run)
        done.append(entry)
        write(done, dry_run)
        reason = f"  ({entry['output']})" if entry["ok"] is None else ""
        print(f"{step.name:<12} {VERDICTS[entry['ok']]:<18} {entry['seconds']:6.1f} s{reason}", flush=True)
        if step.name == "build" and not entry["ok"]:
            break
    path = write(done, dry_run)
    print(f"{sum(entry['seconds'] for entry in done):.0f} s in all; written to {path}")
    return int(any(entry["ok"] is False for entry in done))


def write(done: list[dict[str, Any]], dry_run: bool) -> Path:
    """What is known so far. ``passed`` needs a GPU, and every step of the list that was possible."""
    gpu = torch.cuda.is_available()
    ran = {entry["name"]: entry["ok"] for entry in done}
    passed = gpu and not dry_run and all(ran.get(step.name, False) is not False for step in steps(dry_run))
    result = {"environment": environment.describe(_device()), "passed": passed, "steps": done}
    return environment.write("gpu_check", result, _folder(dry_run))


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


def _succeeded(dry_run: bool) -> dict[str, dict[str, Any]]:
    """The steps that have succeeded at this very commit, by name."""
    found, here = environment.read("gpu_check", _folder(dry_run)), environment.describe(_device())
    if found is None or any(found["environment"][key] != here[key] for key in ("device", "torch", "commit")):
        return {}
    return {entry["name"]: entry for entry in found["steps"] if entry["ok"]}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _folder(dry_run: bool) -> Path:
    return DRY_RUN_FOLDER if dry_run else environment.RESULTS


def _architecture() -> str:
    """The compute capability of the GPU, such as 90; that of Hopper to look at the steps without one."""
    if not torch.cuda.is_available():
        return "90"
    major, minor = torch.cuda.get_device_capability()
    return f"{major}{minor}"


if __name__ == "__main__":
    main()
