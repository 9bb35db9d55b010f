"""Finding the image files of a folder, and counting what is passed over."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SUFFIXES_IN_NOTE = 5


@dataclass
class PassedOver:
    """What a search has found and not taken.

    Attributes:
        suffixes: files whose names end in something else, by ending.
        hidden: files and folders whose names begin with a dot.
        unusual: names of images that are no regular files: pipes, devices, links that lead nowhere.
        repeated: links to folders that the search has been in already.
    """

    suffixes: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    unusual: int = 0
    repeated: int = 0

    def notes(self) -> list[str]:
        """One clause for each kind that there is."""
        endings = ", ".join(name or "no ending" for name, _ in self.suffixes.most_common(SUFFIXES_IN_NOTE))
        counts = {
            f"files of other formats ({endings})": self.suffixes.total(),
            "hidden files or folders": self.hidden,
            "pipes, devices or links that lead nowhere": self.unusual,
            "links to folders that were searched already": self.repeated,
        }
        return [f"{count:,} {what}" for what, count in counts.items() if count]


@dataclass(frozen=True)
class FoundImages:
    """The images of a folder.

    Attributes:
        paths: in the order of the names, class by class.
        labels: one a path, -1 without classes.
        class_names: in order; empty without classes.
        passed_over: what else there was.
    """

    paths: list[str]
    labels: list[int]
    class_names: tuple[str, ...]
    passed_over: PassedOver


def find_images(root: Path) -> FoundImages:
    """The images below ``root``: those of each sub-folder are a class, unless images lie in ``root`` itself alone.

    Links are followed, each folder is searched once.

    Raises:
        ValueError: no such folder; no image; a sub-folder without images; images both in sub-folders and beside them.
    """
    if not root.is_dir():
        raise ValueError(f"root must be a folder that exists, got {str(root)!r}")
    passed = PassedOver()
    visited = {_identity(root)}
    loose, folders = _entries(root, passed)
    found = {Path(folder).name: _images_below(folder, visited, passed) for folder in folders}
    if not any(found.values()):
        if not loose:
            raise ValueError(
                f"root must hold images ({', '.join(IMAGE_SUFFIXES)}), got {str(root)!r} without any{_but(passed)}"
            )
        return FoundImages(loose, [-1] * len(loose), (), passed)
    if loose:
        raise ValueError(
            f"root must hold images either in sub-folders, one a class, or in none, got {str(root)!r} with both "
            f"(such as {loose[0]}): move or remove those beside the sub-folders"
        )
    empty = [name for name, paths in found.items() if not paths]
    if empty:
        raise ValueError(
            f"root must hold images in each sub-folder, got {str(root)!r} with none in {empty}{_but(passed)}: "
            "fill or remove them"
        )
    labelled = [(path, label) for label, paths in enumerate(found.values()) for path in paths]
    return FoundImages([path for path, _ in labelled], [label for _, label in labelled], tuple(found), passed)


def images_below(root: Path) -> tuple[list[str], PassedOver]:
    """All images below ``root``, at any depth, in the order of their paths, and what else there was."""
    passed = PassedOver()
    return _images_below(str(root), set(), passed), passed


def _images_below(folder: str, visited: set[tuple[int, int]], passed: PassedOver) -> list[str]:
    found, waiting = [], [folder]
    while waiting:
        current = waiting.pop()
        identity = _identity(current)
        if identity in visited:
            passed.repeated += 1
            continue
        visited.add(identity)
        files, folders = _entries(current, passed)
        found += files
        waiting += reversed(folders)
    # A batch has to be the same on every machine, whatever the order of the file system.
    return sorted(found)


def _entries(folder: str | Path, passed: PassedOver) -> tuple[list[str], list[str]]:
    """Image files and folders directly in ``folder``, sorted."""
    files, folders = [], []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            suffix = os.path.splitext(entry.name)[1].lower()
            if entry.name.startswith("."):
                passed.hidden += 1
            elif _is_folder(entry):
                folders.append(entry.path)
            elif suffix not in IMAGE_SUFFIXES:
                passed.suffixes[suffix] += 1
            elif _is_file(entry):
                files.append(entry.path)
            else:
                passed.unusual += 1
    return files, folders


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    # Without following links no call to the system is needed; a pipe or a device would block its reader for ever.
    try:
        return entry.is_file()
    except OSError:
        return False


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _but(passed: PassedOver) -> str:
    notes = passed.notes()
    return f" (passed over: {', '.join(notes)})" if notes else ""
