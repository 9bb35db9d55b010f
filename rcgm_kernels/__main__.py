"""``python -m rcgm_kernels``: which backends are there, which would run where, and why a missing one is missing."""

from __future__ import annotations

import platform
from importlib import metadata

import torch

from rcgm_kernels.backends import BACKENDS, ENVIRONMENT, choose, cpu
from rcgm_kernels.version import __version__


def describe() -> str:
    """A report to read, and to paste into bug reports."""
    lines = [
        f"rcgm {__version__}, torch {torch.__version__}, Python {platform.python_version()}, {platform.platform()}"
    ]
    lines += [f"{name} {_version(name)}" for name in ("numpy", "triton")]
    lines += ["", "backends"]
    for name, backend in BACKENDS.items():
        reason = backend.unavailable()
        lines.append(f"  {name:<10} {'available' if reason is None else f'missing: {reason}'}")
    if cpu.unavailable() is None:
        lines.append(f"  instruction sets of the cpu backend, best first: {', '.join(cpu.instruction_sets())}")
    lines += ["", f"chosen by device (force one with backend=... or {ENVIRONMENT}=...)"]
    for device in _devices():
        label = device.type if device.type == "cpu" else f"{device} ({torch.cuda.get_device_name(device)})"
        lines.append(f"  {label:<10} {_chosen(device)}")
    return "\n".join(lines)


def main() -> None:
    print(describe())


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> list[torch.device]:
    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [torch.device("cpu"), *gpus]


def _chosen(device: torch.device) -> str:
    try:
        return choose(None, device).NAME
    except ValueError as error:
        return f"none: {error}"


if __name__ == "__main__":
    main()
