"""Images and captions in tar files as WebDataset names their members: ``KEY.jpg``, ``KEY.txt`` or ``KEY.json``."""

from __future__ import annotations

import bisect
import io
import itertools
import json
from pathlib import Path
from typing import BinaryIO

from rcgm.data.image_search import IMAGE_SUFFIXES
from rcgm.data.tar_samples import Member, tar_samples
from rcgm.encoding.sources.pair import LARGEST_CAPTION, BadPairError, Reason, plain_caption

__all__ = ["TarPairs"]

TEXT, JSON = "txt", "json"
CAPTION_KEYS = ("caption", "text", "prompt")
"""Keys of a caption in ``KEY.json``; the first that is there."""


class TarPairs:
    """The samples of several tar files, one after the other.

    Args:
        paths: of the files.
        caption_key: key of the caption in ``KEY.json``; None for ``KEY.txt`` where it is there, and else the first of
            ``CAPTION_KEYS``.

    Raises:
        ValueError: a file is damaged or compressed, or holds no images.
    """

    def __init__(self, paths: list[Path], caption_key: str | None = None) -> None:
        self._paths = paths
        self._caption_key = caption_key
        self._stamps = [[status.st_size, status.st_mtime_ns] for status in (path.stat() for path in paths)]
        self._samples: list[list[tuple[str, dict[str, Member]]]] = []
        other = 0
        for path in paths:
            found = tar_samples(path)
            used = [(key.strip("/"), _lower(members)) for key, members in found.items() if _is_pair(members)]
            other += len(found) - len(used)
            self._samples.append(used)
        self._ends = list(itertools.accumulate(map(len, self._samples)))
        if not any(_image_suffix(members) for samples in self._samples for _, members in samples):
            raise ValueError(f"tar files in {paths[0].parent} must hold images, KEY.jpg or the like, got none")
        self.notes = [f"passed over: {other:,} members that are neither images nor captions"] if other else []

    def __len__(self) -> int:
        return self._ends[-1]

    def name(self, index: int) -> str:
        tar, (key, _) = self._locate(index)
        return f"{self._paths[tar].name}/{key}"

    def caption(self, index: int) -> str:
        _, (_, members) = self._locate(index)
        if TEXT in members and self._caption_key is None:
            return plain_caption(self._decoded(self._read(index, TEXT)))
        if JSON not in members:
            raise BadPairError(Reason.CAPTION_MISSING)
        try:
            entry = json.loads(self._decoded(self._read(index, JSON)))
        except (ValueError, RecursionError) as error:
            if isinstance(error, BadPairError):
                raise
            raise BadPairError(Reason.CAPTION_BROKEN, f"its .json cannot be read: {error}") from error
        if not isinstance(entry, dict):
            raise BadPairError(Reason.CAPTION_BROKEN, "its .json must be an object")
        keys = CAPTION_KEYS if self._caption_key is None else (self._caption_key,)
        return plain_caption(next((entry[key] for key in keys if key in entry), None))

    def image(self, index: int) -> BinaryIO:
        _, (_, members) = self._locate(index)
        suffix = _image_suffix(members)
        if suffix is None:
            raise BadPairError(Reason.IMAGE_MISSING)
        return io.BytesIO(self._read(index, suffix, limited=False))

    def stamp(self, index: int) -> list[int]:
        return self._stamps[self._locate(index)[0]]

    def _locate(self, index: int) -> tuple[int, tuple[str, dict[str, Member]]]:
        tar = bisect.bisect_right(self._ends, index)
        return tar, self._samples[tar][index - (self._ends[tar - 1] if tar else 0)]

    def _read(self, index: int, suffix: str, *, limited: bool = True) -> bytes:
        tar, (_, members) = self._locate(index)
        offset, size = members[suffix]
        if limited and size > LARGEST_CAPTION:
            raise BadPairError(Reason.CAPTION_BROKEN, f"it has more than {LARGEST_CAPTION} bytes")
        with self._paths[tar].open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def _decoded(self, content: bytes) -> str:
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadPairError(Reason.CAPTION_BROKEN, str(error)) from error


def _lower(members: dict[str, Member]) -> dict[str, Member]:
    return {suffix.lower(): member for suffix, member in members.items()}


def _image_suffix(members: dict[str, Member]) -> str | None:
    return next((suffix for suffix in members if f".{suffix}" in IMAGE_SUFFIXES), None)


def _is_pair(members: dict[str, Member]) -> bool:
    lower = _lower(members)
    return _image_suffix(lower) is not None or TEXT in lower
