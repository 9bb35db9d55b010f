"""Names of files that come from a file that somebody else has written."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

__all__ = ["is_below"]


def is_below(name: str) -> bool:
    """Whether a path leads to a place below the folder that it is relative to, on any system."""
    paths = PurePosixPath(name), PureWindowsPath(name)
    return bool(name) and "\0" not in name and not any(path.anchor or ".." in path.parts for path in paths)
