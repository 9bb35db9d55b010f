"""What each part of the check does, the most telling first."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from rcgm.cli.errors import PACKAGES

__all__ = ["PARTS", "ROOT", "Step", "steps"]

ROOT = Path(__file__).parent.parent.parent
TEST_PACKAGES = ("pytest", "hypothesis")


@dataclass(frozen=True)
class Step:
    """A command, the seconds it may take, and why it cannot run here, if so."""

    name: str
    command: list[str]
    limit: float
    variables: dict[str, str] = field(default_factory=dict)
    impossible: str | None = None


def steps(part: str, dry_run: bool) -> list[Step]:
    """The steps of a part of ``PARTS``; a dry run has the same, small and without a GPU."""
    archs = {"RCGM_CUDA": "0"} if dry_run else {"RCGM_CUDA": "1", "RCGM_CUDA_ARCHS": _architecture()}
    build = Step("build", [sys.executable, "setup.py", "build_ext", "--inplace"], 300 if dry_run else 180, archs)
    return [build, *PARTS[part](dry_run)]


def _kernels(dry_run: bool) -> list[Step]:
    size = ["--largest", "10000"] if dry_run else []
    rounds = ["--short", "--rounds", "2" if dry_run else "20"]

    def of_backend(backend: str, *more: str) -> list[str]:
        return [*more, *([] if dry_run else ["--backend", backend])]

    def accuracy(backend: str) -> Step:
        name = f"accuracy_{backend}"
        return Step(name, _module("accuracy", "--name", name, *of_backend(backend, *size)), 60)

    def speed(backend: str) -> Step:
        name = f"kernels_{backend}"
        command = _module(
            "kernels", "--name", f"kernels_short_{backend}", "--no-compile", *of_backend(backend, *rounds)
        )
        return Step(name, command, 60)

    beside_compile = _module("kernels", "--name", "kernels_short_compile", *of_backend("cuda", *rounds))
    return [
        accuracy("cuda"),
        speed("cuda"),
        _sanitizer("memcheck"),
        accuracy("triton"),
        speed("triton"),
        Step("kernels_compile", beside_compile, 90),
    ]


def _training_steps(dry_run: bool) -> list[Step]:
    variants = ["flow matching", "RCGM, order 2, rollout", "MeanFlow, central difference"]
    variants += [f"MeanFlow, jvp with{out} gradient{flash}" for flash in ("", ", flash") for out in ("", "out")]
    preset, batches, rounds = ("nano/2", ["2", "4"], "2") if dry_run else ("XL/2", ["4", "32"], "4")
    shared = ["--preset", preset, "--batches", *batches, "--rounds", rounds, "--variant", *variants]

    def measured(name: str, compiler: str, limit: float) -> Step:
        options = ["--compiler", compiler, "--seconds", f"{limit - 30:g}", "--name", f"{name}_short"]
        return Step(name, _module("steps", *shared, *options), limit, impossible=_lacking(PACKAGES["train"]))

    return [
        measured("steps", "none", 150),
        measured("steps_compiled", "aot_eager" if dry_run else "inductor", 200),
    ]


def _whole(dry_run: bool) -> list[Step]:
    pytest = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "tests/rcgm_kernels"]
    no_training, no_tests = _lacking(PACKAGES["train"]), _lacking(TEST_PACKAGES)
    seconds = "2" if dry_run else "60"
    # not those of the emulated device, nor what compiles for other architectures: both need no GPU
    on_cuda, on_triton = (
        ("test_coefficients", "test_triton and upstream") if dry_run else ("gpu", "test_triton and not compiles")
    )
    few = ["--variant", "flow matching", "--budget-mib", "8"] if dry_run else []
    return [
        Step("training", _module("gpu_training", "--seconds", seconds), 130, impossible=no_training),
        Step("capacity", _module("capacity", "--seconds", "90", "--name", "capacity_short", *few), 120,
             impossible=no_training),
        Step("cuda_tests", [*pytest, "-k", on_cuda], 90, impossible=no_tests),
        _sanitizer("racecheck"),
        Step("triton_tests", [*pytest, "-k", on_triton], 120, impossible=no_tests),
    ]  # fmt: skip


PARTS: Mapping[str, Callable[[bool], list[Step]]] = {"a": _kernels, "b": _training_steps, "c": _whole}


def _module(name: str, *options: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.{name}", *options]


def _sanitizer(tool: str) -> Step:
    missing = None if shutil.which("compute-sanitizer") else "compute-sanitizer was not found"
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *_module("every_kernel")]
    return Step(tool, command, 60, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, missing)


def _lacking(packages: Sequence[str]) -> str | None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


@functools.cache
def _architecture() -> str:
    """The compute capability of the GPU, such as 90; that of Hopper to look at the steps without one."""
    if not torch.cuda.is_available():
        return "90"
    major, minor = torch.cuda.get_device_capability()
    return f"{major}{minor}"
