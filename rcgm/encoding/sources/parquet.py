"""Images and captions in parquet files, as data sets on the hub have them."""

from __future__ import annotations

import bisect
import io
import itertools
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

from rcgm.checks import one_of
from rcgm.data.paths import is_below
from rcgm.encoding.sources.pair import BadPairError, Reason, plain_caption

__all__ = ["CAPTION_COLUMNS", "IMAGE_COLUMNS", "ParquetPairs"]

IMAGE_COLUMNS = ("image", "jpg", "png", "webp", "img", "image_bytes")
CAPTION_COLUMNS = ("text", "caption", "prompt", "captions", "txt")
GROUPS_KEPT = 2
"""Row groups in memory: where threads read neighbouring rows, those at the end of one and the beginning of the next."""


class ParquetPairs:
    """The rows of several files, one after the other.

    An image is its content in binary, or a struct of ``bytes`` and ``path``, as data sets on the hub have it; where
    there are no bytes, ``path`` leads to a file below the folder.

    Args:
        paths: of the files, in one folder.
        image_column, caption_column: their names; None for the first of ``IMAGE_COLUMNS`` and ``CAPTION_COLUMNS`` that
            there is.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
        ValueError: a file is damaged, or has no such columns.
    """

    def __init__(self, paths: list[Path], image_column: str | None = None, caption_column: str | None = None) -> None:
        self._paths = paths
        self._stamps = [[status.st_size, status.st_mtime_ns] for status in (path.stat() for path in paths)]
        rows: list[int] = []
        self._groups: list[tuple[int, int]] = []
        self._first: list[int] = []
        names: list[str] = []
        for number, path in enumerate(paths):
            with _opened(path) as file:
                found = file.schema_arrow.names
                if number == 0:
                    names = found
                elif found != names:
                    raise ValueError(f"{path} must have the columns {names}, as {paths[0]} does, got {found}")
                self._first.append(sum(rows))
                for group in range(file.num_row_groups):
                    self._groups.append((number, group))
                    rows.append(file.metadata.row_group(group).num_rows)
        self._ends = list(itertools.accumulate(rows))
        if not self._ends or not self._ends[-1]:
            raise ValueError(f"parquet files in {paths[0].parent} must hold rows, got none")
        self._image = _column("image_column", image_column, IMAGE_COLUMNS, names)
        self._caption = _column("caption_column", caption_column, CAPTION_COLUMNS, names)
        self.notes: list[str] = []
        self._make_cache()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_kept")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._make_cache()

    def name(self, index: int) -> str:
        number, _ = self._groups[self._locate(index)[0]]
        return f"{self._paths[number].name}/{index - self._first[number]}"

    def caption(self, index: int) -> str:
        return plain_caption(self._cell(index, self._caption))

    def image(self, index: int) -> str | BinaryIO:
        value = self._cell(index, self._image)
        path = None
        if isinstance(value, dict):
            value, path = value.get("bytes"), value.get("path")
        if isinstance(value, bytes) and value:
            return io.BytesIO(value)
        if not isinstance(path, str) or not is_below(path):
            raise BadPairError(Reason.IMAGE_MISSING, "the row has neither bytes nor a path below the folder")
        file = self._paths[0].parent / path
        if not file.is_file():
            raise BadPairError(Reason.IMAGE_MISSING, f"no file {file}")
        return str(file)

    def stamp(self, index: int) -> list[int]:
        return self._stamps[self._groups[self._locate(index)[0]][0]]

    def _locate(self, index: int) -> tuple[int, int]:
        group = bisect.bisect_right(self._ends, index)
        return group, index - (self._ends[group - 1] if group else 0)

    def _cell(self, index: int, column: str) -> Any:
        group, row = self._locate(index)
        with self._lock:
            table = self._kept.pop(group, None)
            if table is None:
                number, place = self._groups[group]
                try:
                    with _opened(self._paths[number]) as file:
                        table = file.read_row_group(place, columns=[self._image, self._caption])
                except Exception as error:  # pyarrow has many for pages that are damaged
                    raise BadPairError(Reason.ROW_BROKEN, f"row group {place} of its file: {error}") from error
            self._kept[group] = table
            while len(self._kept) > GROUPS_KEPT:
                self._kept.popitem(last=False)
        return table.column(column)[row].as_py()

    def _make_cache(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Any] = OrderedDict()


def _opened(path: Path) -> Any:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("parquet files need pyarrow: pip install 'rcgm[text]'", name="pyarrow") from error
    try:
        return parquet.ParquetFile(path)
    except (OSError, ArrowException) as error:
        raise ValueError(f"cannot read the parquet file {path}: {error}") from error


def _column(argument: str, given: str | None, usual: tuple[str, ...], names: list[str]) -> str:
    if given is not None:
        return one_of(argument, given, names)
    found = next((name for name in usual if name in names), None)
    if found is None:
        raise ValueError(
            f"{argument} must name one of the columns {', '.join(names)}: none is called {', '.join(usual)}"
        )
    return found
