"""Errors as a user reads them: one line, and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

__all__ = ["PACKAGES", "exhausted", "fail", "missing_package"]

NO_SPACE = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT") if hasattr(errno, name)}
NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory")
"""What torch's errors say, in lower case, where there is not enough memory."""

PACKAGES = {
    "train": ("PIL", "matplotlib", "pydantic", "safetensors", "sklearn", "tensorboard", "tqdm", "yaml"),
    "encode": ("diffusers",),
}
"""What an extra brings, as it is imported."""


def fail(message: str, code: int = 2) -> int:
    """Print an error, with the rank where there are several; returns the exit code."""
    rank = os.environ.get("RANK")
    where = "" if rank is None else f" in process {rank}"
    print(f"rcgm: error{where}: {' '.join(message.split())}", file=sys.stderr)
    return code


def missing_package(error: ModuleNotFoundError) -> str | None:
    """What to install, or None where what is missing is no package of an extra."""
    if "pip install" in str(error):  # what needs the package knows its extra
        return str(error)
    package = (error.name or "").partition(".")[0]
    extra = next((extra for extra, brought in PACKAGES.items() if package in brought), None)
    return None if extra is None else f"this command needs the package '{package}': pip install 'rcgm[{extra}]'"


def exhausted(error: BaseException, output: Path | None, less_memory: str) -> str | None:
    """What to say where the disk or the memory is full; None where ``error`` is another one.

    Args:
        error: what the command raised.
        output: where the command writes, for errors that do not name a file.
        less_memory: what to change so that the command needs less memory.
    """
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return f"no space left on the disk for '{error.filename or output}': free some, or write to another disk"
    text = str(error).lower()
    full = isinstance(error, RuntimeError) and any(sign in text for sign in NO_MEMORY)
    if isinstance(error, MemoryError) or full or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        where = "GPU" if "cuda" in text else "main"
        return f"not enough {where} memory: {less_memory}"
    return None
