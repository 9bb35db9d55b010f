"""The samples of a tar file as WebDataset names their members: ``KEY.SUFFIX``."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

__all__ = ["Member", "tar_samples"]

Member = tuple[int, int]
"""Offset and size, in bytes."""


def tar_samples(tar: Path) -> dict[str, dict[str, Member]]:
    """Where the members of each sample lie: by key, and by what follows the first dot of the name.

    Raises:
        ValueError: the file is damaged, compressed, empty, or holds a member twice.
    """
    samples: dict[str, dict[str, Member]] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if not member.isfile() or not stem:
                    continue
                if suffix in samples.setdefault(f"{folder}/{stem}", {}):
                    raise ValueError(f"it holds {member.name!r} twice")
                if member.issparse():
                    raise ValueError(f"{member.name!r} is stored as a sparse file; store it as a plain one")
                samples[f"{folder}/{stem}"][suffix] = (member.offset_data, member.size)
                archive.members = []  # else it keeps every header
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"cannot read {tar} as an uncompressed tar file: {error}") from error
    except ValueError as error:
        raise ValueError(f"cannot use {tar}: {error}") from error
    if not samples:
        raise ValueError(f"{tar} holds no files")
    with tar.open("rb") as file:
        file.seek(-tarfile.BLOCKSIZE, os.SEEK_END)
        if any(file.read()):
            raise ValueError(f"cannot read {tar}: it breaks off before its end marker")
    return samples
