"""Files of prompts: one prompt a line, and the files of GenEval and DPG-Bench."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Prompt", "read_prompts"]


@dataclass(frozen=True)
class Prompt:
    """A prompt as a file has it.

    Args:
        text: of the prompt, not blank.
        name: by which a benchmark knows it; None where it has none.
        line: of the file of metadata that it comes from, a JSON object; None for other files.
    """

    text: str
    name: str | None = None
    line: str | None = None


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file or folder.

    Args:
        path: a ``.jsonl`` file with a key ``prompt`` in each line, as GenEval's metadata; a ``.csv`` file with columns
            ``item_id`` and ``text``, as DPG-Bench's, whose further rows of an item are passed over; another file, one
            prompt a line; or a folder of ``.txt`` files, one prompt a file, as DPG-Bench's.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it holds no prompts or a blank one, or cannot be read; the message names the line or the file.
    """
    if path.is_dir():
        found = [(str(file), Prompt(_read(file).strip(), file.stem)) for file in sorted(path.glob("*.txt"))]
    elif not path.exists():
        raise FileNotFoundError(f"no file or folder of prompts '{path}'")
    else:
        read = {".jsonl": _metadata, ".csv": _table}.get(path.suffix.lower(), _lines)
        found = [(f"line {number} of '{path}'", prompt) for number, prompt in read(_read(path), path)]
    if not found:
        what = "folder of .txt files with prompts" if path.is_dir() else "file of prompts"
        raise ValueError(f"prompts must be a {what}, got '{path}' without any")
    for where, prompt in found:
        if not prompt.text:
            raise ValueError(f"prompts must not be blank, got {where}: take it out")
    return [prompt for _, prompt in found]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"prompts must be text in UTF-8, got '{path}': {error}") from error


def _numbered(content: str) -> Iterator[tuple[int, str]]:
    # only line feeds end a line: a prompt may hold other separators of lines
    return enumerate((line.strip() for line in content.rstrip().split("\n")) if content.strip() else (), 1)


def _lines(content: str, path: Path) -> Iterator[tuple[int, Prompt]]:
    return ((number, Prompt(line)) for number, line in _numbered(content))


def _metadata(content: str, path: Path) -> Iterator[tuple[int, Prompt]]:
    for number, line in _numbered(content):
        try:
            text = json.loads(line)["prompt"].strip()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"each line of '{path}' must be a JSON object with a text 'prompt', got line {number}: {line[:80]!r}"
            ) from error
        yield number, Prompt(text, line=line)


def _table(content: str, path: Path) -> Iterator[tuple[int, Prompt]]:
    reader = csv.DictReader(io.StringIO(content, newline=""))
    if not {"item_id", "text"} <= set(reader.fieldnames or ()):
        raise ValueError(f"'{path}' must have the columns item_id and text, got {reader.fieldnames}")
    seen = set()
    for row in reader:
        name = row["item_id"]
        if name not in seen:
            seen.add(name)
            yield reader.line_num, Prompt((row["text"] or "").strip(), name)
