"""Errors as a user reads them: one line, and an exit code."""

from __future__ import annotations

import os
import sys

__all__ = ["PACKAGES", "fail", "missing_package"]

PACKAGES = {
    "train": ("PIL", "matplotlib", "pydantic", "safetensors", "sklearn", "tensorboard", "tqdm", "yaml"),
    "encode": ("diffusers",),
}
"""What an extra brings, as it is imported."""
OPTIONAL_PACKAGES = {"torch_fidelity", "wandb"}
"""Packages of extras of their own; what needs one says what to install."""


def fail(message: str, code: int = 2) -> int:
    """Print an error, with the rank where there are several; returns the exit code."""
    rank = os.environ.get("RANK")
    where = "" if rank is None else f" in process {rank}"
    print(f"rcgm: error{where}: {' '.join(message.split())}", file=sys.stderr)
    return code


def missing_package(error: ModuleNotFoundError) -> str | None:
    """What to install, or None where what is missing is no package of an extra."""
    package = (error.name or "").partition(".")[0]
    if package in OPTIONAL_PACKAGES:
        return str(error)
    extra = next((extra for extra, brought in PACKAGES.items() if package in brought), None)
    return None if extra is None else f"this command needs the package '{package}': pip install 'rcgm[{extra}]'"
