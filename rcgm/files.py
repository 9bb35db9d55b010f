"""Writing files so that a reader, or a crash, never sees half of one."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["sync_to_disk", "write_atomically"]


def write_atomically(path: str | os.PathLike[str], content: bytes | str) -> Path:
    """Replace ``path`` by ``content`` in one step and return it as a ``Path``.

    The content goes to a temporary file beside ``path``, is flushed to disk and renamed over it. After a crash the old
    file or the new one is there, whole. Text is written as UTF-8; missing parent folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        sync_to_disk(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_to_disk(path.parent)
    return path


def sync_to_disk(path: Path) -> None:
    """Flush a file, or the entries of a folder, from the operating system's cache to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders, and its renames need no flush of them
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
