"""``state.json`` of a checkpoint: its plain values, and what its other files are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rcgm.files import sha256_of

__all__ = ["FORMAT", "STATE", "CheckpointError", "file_problem", "hash_of_content", "read_state"]

FORMAT = 2
STATE = "state.json"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another format. The message names the file."""


def read_state(path: Path) -> dict[str, Any]:
    """The content of a ``state.json``, after a check of its own SHA-256 and of the entries that every one has.

    Raises:
        CheckpointError: it is missing, damaged or of another format.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint file '{path}' is missing")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"checkpoint file '{path}' is damaged: {error}") from error
    if not isinstance(content, dict) or content.pop("sha256", None) != hash_of_content(content):
        raise CheckpointError(f"checkpoint file '{path}' is damaged: its SHA-256 differs from the one it holds")
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint file '{path}' has format {content.get('format')!r}; this version reads {FORMAT}"
        )
    problem = _wrong_entry(content)
    if problem is not None:
        raise CheckpointError(f"checkpoint file '{path}' is damaged: {problem}")
    return content


def _wrong_entry(content: Mapping[str, Any]) -> str | None:
    """What is missing or of the wrong type in the content of a ``state.json``."""
    for name, kind in (("step", int), ("files", dict), ("state", dict)):
        value = content.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            return f"'{name}' is {'missing' if name not in content else repr(value)}"
    if content["step"] < 0:
        return f"'step' is {content['step']}"
    if not content["files"]:
        return "it lists no files"
    for name, entry in content["files"].items():
        if Path(name).name != name or not name.endswith(".safetensors"):
            return f"{name!r} is no name of a file of tensors"
        known = isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str)
        if not known:
            return f"the size or the SHA-256 of '{name}' is missing"
    return None


def hash_of_content(content: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_problem(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What is wrong with the first of ``files``, which are listed with their sizes and hashes; None for nothing."""
    for name, expected in files.items():
        file = folder / name
        if not file.is_file():
            return f"checkpoint file '{file}' is missing"
        size = file.stat().st_size
        if size != expected["bytes"]:
            return f"checkpoint file '{file}' is damaged: {size} bytes instead of {expected['bytes']}"
        if sha256_of(file) != expected["sha256"]:
            return f"checkpoint file '{file}' is damaged: its SHA-256 differs from the one in {STATE}"
    return None
