"""Versions of the libraries of a run."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from rcgm import __version__

__all__ = ["library_versions"]

LIBRARIES = ("triton", "numpy", "safetensors", "scikit-learn")


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that are installed, by name."""
    found = {"rcgm": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
