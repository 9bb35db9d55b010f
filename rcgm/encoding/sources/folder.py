"""A folder of images, with captions in ``metadata.jsonl`` or in a ``.txt`` file beside each image."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

from rcgm.data.image_search import IMAGE_SUFFIXES, images_below
from rcgm.data.paths import is_below
from rcgm.encoding.sources.pair import LARGEST_CAPTION, BadPairError, Reason, plain_caption

__all__ = ["METADATA", "ListedFolder", "TextFileFolder", "open_folder"]

METADATA = "metadata.jsonl"
CAPTION_SUFFIX = ".txt"


class ListedFolder:
    """Images that ``metadata.jsonl`` lists, one JSON object a line: the layout of datasets and diffusers.

    Args:
        root: the folder.
        image_key, caption_key: keys of the name of the file, relative to the folder, and of the caption.

    Raises:
        ValueError: the list cannot be read, or is empty.
    """

    def __init__(self, root: Path, image_key: str = "file_name", caption_key: str = "text") -> None:
        self._root = root
        self._keys = (image_key, caption_key)
        path = root / METADATA
        try:
            lines = path.read_text(encoding="utf-8").split("\n")  # others may stand in a text
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot read {path}: {error}") from error
        self._lines = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
        if not self._lines:
            raise ValueError(f"{path} must hold a line for each image, got none")
        self._check_first(path)
        self.notes: list[str] = []

    def __len__(self) -> int:
        return len(self._lines)

    def name(self, index: int) -> str:
        try:
            return str(self._entry(index)[self._keys[0]])
        except (BadPairError, KeyError):
            return f"line {self._lines[index][0]} of {METADATA}"

    def caption(self, index: int) -> str:
        return plain_caption(self._entry(index).get(self._keys[1]))

    def image(self, index: int) -> str:
        return str(self._path(index))

    def stamp(self, index: int) -> list[int]:
        line = zlib.crc32(self._lines[index][1].encode("utf-8", "surrogatepass"))
        try:
            status = os.stat(self._path(index))
        except (BadPairError, OSError):
            return [line]
        return [line, status.st_size, status.st_mtime_ns]

    def _entry(self, index: int) -> dict[str, object]:
        try:
            entry = json.loads(self._lines[index][1])
        except (ValueError, RecursionError) as error:
            raise BadPairError(Reason.CAPTION_BROKEN, f"the line is no JSON: {error}") from error
        if not isinstance(entry, dict):
            raise BadPairError(Reason.CAPTION_BROKEN, "the line must be a JSON object")
        return entry

    def _path(self, index: int) -> Path:
        name = self._entry(index).get(self._keys[0])
        if not isinstance(name, str) or not is_below(name):
            raise BadPairError(Reason.IMAGE_MISSING, f"its name must lead to a file below the folder, got {name!r}")
        path = self._root / name
        if not path.is_file():  # a pipe would block its reader for ever
            raise BadPairError(Reason.IMAGE_MISSING, f"no file {path}")
        return path

    def _check_first(self, path: Path) -> None:
        """Raise unless the first line has the keys: else all lines would lack them."""
        try:
            found = self._entry(0)
        except BadPairError:
            return
        missing = [key for key in self._keys if key not in found]
        if missing:
            raise ValueError(
                f"{path} must have the keys {', '.join(self._keys)}, got {', '.join(found)}: name them with "
                "--image-key and --caption-key"
            )


class TextFileFolder:
    """Images at any depth, each with its caption in a file of the same name that ends in ``.txt``.

    Args:
        root: the folder.

    Raises:
        ValueError: there is no image, or no caption beside any.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._paths, passed = images_below(root)
        if not self._paths:
            raise ValueError(f"source must hold images ({', '.join(IMAGE_SUFFIXES)}), got {str(root)!r} without any")
        if not any(os.path.isfile(self._beside(index)) for index in range(len(self._paths))):
            raise ValueError(
                f"source must hold captions, in {METADATA} or in a {CAPTION_SUFFIX} file beside each image, got "
                f"{str(root)!r} without any"
            )
        passed.suffixes.pop(CAPTION_SUFFIX, None)
        notes = passed.notes()
        self.notes = [f"passed over: {', '.join(notes)}"] if notes else []

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        return Path(self._paths[index]).relative_to(self._root).as_posix()

    def caption(self, index: int) -> str:
        path = self._beside(index)
        if not os.path.isfile(path):
            raise BadPairError(Reason.CAPTION_MISSING, f"no file {path}")
        try:
            if os.path.getsize(path) > LARGEST_CAPTION:
                raise ValueError(f"it has more than {LARGEST_CAPTION} bytes")
            with open(path, encoding="utf-8") as file:
                return plain_caption(file.read())
        except BadPairError:
            raise
        except (OSError, ValueError) as error:
            raise BadPairError(Reason.CAPTION_BROKEN, f"{path}: {error}") from error

    def image(self, index: int) -> str:
        return self._paths[index]

    def stamp(self, index: int) -> list[int]:
        numbers = []
        for path in (self._paths[index], self._beside(index)):
            try:
                status = os.stat(path)
            except OSError:
                continue
            numbers += [status.st_size, status.st_mtime_ns]
        return numbers

    def _beside(self, index: int) -> str:
        return os.path.splitext(self._paths[index])[0] + CAPTION_SUFFIX


def open_folder(root: Path, image_key: str | None, caption_key: str | None) -> ListedFolder | TextFileFolder:
    """The images of a folder with their captions, from ``metadata.jsonl`` where there is one.

    Raises:
        ValueError: see the two classes; or keys without a list.
    """
    if (root / METADATA).is_file():
        return ListedFolder(root, image_key or "file_name", caption_key or "text")
    if image_key is not None or caption_key is not None:
        raise ValueError(
            f"image_key and caption_key must be left out for a folder without {METADATA}, got {str(root)!r}"
        )
    return TextFileFolder(root)
