"""Everything that needs a GPU, in one command of under ten minutes, from a bare clone.

    python -m benchmarks.gpu_check            build, test, sanitize, measure; writes results/gpu_check.json and
    kernels_cuda.json python -m benchmarks.gpu_check --dry-run  the same steps on a machine without a GPU, written to
    the file gpu_check_dry_run

The build is not isolated, so that it works without a network: setuptools and pybind11 must be there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TAIL = 3000
KERNEL_TESTS = "tests/rcgm_kernels"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="go through the steps without a GPU")
    parser.add_argument("--rounds", type=int, default=40, help="rounds of the benchmark (40)")
    arguments = parser.parse_args()
    steps = [build(arguments.dry_run)]
    if steps[0]["ok"]:
        steps += [tests(), *sanitizers(), kernels(arguments.rounds, arguments.dry_run)]
    import torch

    from benchmarks import environment

    if not torch.cuda.is_available() and not arguments.dry_run:
        raise SystemExit("no GPU that torch can use was found; --dry-run goes through the steps without one")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    passed = device.type == "cuda" and all(step["ok"] is not False for step in steps)
    result = {"environment": environment.describe(device), "passed": passed, "steps": steps}
    path = environment.write("gpu_check_dry_run" if arguments.dry_run else "gpu_check", result)
    for step in steps:
        verdict = {True: "ok", False: "FAILED", None: "not possible here"}[step["ok"]]
        print(f"{step['name']:<24} {verdict:<18} {step['seconds']:6.1f} s")
    print(f"written to {path}")
    sys.exit(any(step["ok"] is False for step in steps))


def build(dry_run: bool) -> dict[str, Any]:
    """Compile the extensions in place, CUDA included."""
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return step("build", command, 240, {"RCGM_CUDA": "auto" if dry_run else "1"})


def tests() -> dict[str, Any]:
    """The kernels against float64, on every backend that this machine has."""
    return step(
        "tests", [sys.executable, "-m", "pytest", "-q", "--no-header", KERNEL_TESTS, "-k", "cuda or triton"], 300
    )


def sanitizers() -> list[dict[str, Any]]:
    """The memory and race checkers over one call of every CUDA kernel."""
    program = [sys.executable, "-m", "benchmarks.every_kernel"]
    results = []
    for tool in ("memcheck", "racecheck"):
        if shutil.which("compute-sanitizer") is None:
            results.append({"name": tool, "ok": None, "seconds": 0.0, "output": "compute-sanitizer was not found"})
        else:
            command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *program]
            results.append(step(tool, command, 120, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}))
    return results


def kernels(rounds: int, dry_run: bool) -> dict[str, Any]:
    """The kernel benchmark."""
    command = [sys.executable, "-m", "benchmarks.kernels", "--rounds", str(3 if dry_run else rounds)]
    return step("kernels", command + (["--name", "kernels_dry_run"] if dry_run else []), 240)


def step(name: str, command: list[str], limit: float, variables: dict[str, str] | None = None) -> dict[str, Any]:
    """Run one step; what it printed last is kept."""
    print(f"{name}: {' '.join(command)}", flush=True)
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **(variables or {})}, capture_output=True, text=True, timeout=limit
        )
        ok, output = done.returncode == 0, done.stdout + done.stderr
    except subprocess.TimeoutExpired as late:
        ok, output = False, f"stopped after {limit} s\n{late.stdout or ''}{late.stderr or ''}"
    if not ok:
        print(output[-TAIL:], flush=True)
    return {"name": name, "ok": ok, "seconds": time.perf_counter() - begin, "output": output[-TAIL:]}


if __name__ == "__main__":
    main()
