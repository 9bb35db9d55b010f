"""Writing files so that a reader, or a crash, never sees half of one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["hidden_beside", "new_folder", "replaced_atomically", "sha256_of", "sync_to_disk", "write_atomically"]


def write_atomically(path: str | os.PathLike[str], content: bytes | str) -> Path:
    """Replace ``path`` by ``content`` in one step and return it as a ``Path``.

    The content goes to a temporary file beside ``path``, is flushed to disk and renamed over it. After a crash the old
    file or the new one is there, whole. Text is written as UTF-8; missing parent folders are made.
    """
    with replaced_atomically(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return Path(path)


@contextlib.contextmanager
def replaced_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """As :func:`write_atomically`, of a file that the body of the ``with`` writes: to the path it is given."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = hidden_beside(path)
    # Made here and only here: in a folder that others may write to, nobody can have put a link of this name there.
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield temporary
        sync_to_disk(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_to_disk(path.parent)


@contextlib.contextmanager
def new_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder that appears whole or not at all: the body of the ``with`` fills the one that it is given.

    Raises:
        FileExistsError: ``folder`` holds something.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"'{folder}' is there already: give a folder that is not, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = hidden_beside(folder)
    temporary.mkdir()
    try:
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            sync_to_disk(path)
        temporary.replace(folder)
        sync_to_disk(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def hidden_beside(path: Path) -> Path:
    """A hidden name beside ``path`` that nobody can guess, for a file or a folder that is to be renamed to it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal, read a piece at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def sync_to_disk(path: Path) -> None:
    """Flush a file, or the entries of a folder, from the operating system's cache to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders, and its renames need no flush of them
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
