"""Checkpoints: one folder a step, whole or not there, without pickles.

A checkpoint ``step_00001000/`` holds one ``.safetensors`` file per group of tensors and ``state.json`` with the plain
values, the size and the SHA-256 of every other file, and the SHA-256 of its own content. It is written under another
name, flushed to disk and renamed, so a folder of that name is complete; later damage is found when it is read.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rcgm.files import sync_to_disk, write_atomically

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "find_checkpoints",
    "latest_checkpoint",
    "read_checkpoint",
    "save_checkpoint",
]

FORMAT = 1
STATE = "state.json"
COMPLETE = re.compile(r"step_(\d{8,})")
UNFINISHED = "unfinished_"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another format. The message names the file."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint: groups of named tensors (on the CPU) and plain values."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def find_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in ``folder``, oldest first; none where there is no such folder."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_dir() and COMPLETE.fullmatch(path.name)]
    return sorted(found, key=_step_of)


def latest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint of the highest step, or None."""
    found = find_checkpoints(folder)
    return found[-1] if found else None


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], *, keep: int
) -> Path:
    """Write ``folder/step_00001000``, then delete all but the newest ``keep`` checkpoints.

    Args:
        folder: made if need be.
        step: of the checkpoint; one that is there already is replaced.
        tensors: groups of named tensors, a file for each group that is not empty.
        state: values that JSON can hold; floats survive exactly.
        keep: at least 1.

    Returns:
        The checkpoint's folder.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(leftover)
    final = folder / f"step_{step:08d}"
    unfinished = folder / f"{UNFINISHED}{final.name}"
    unfinished.mkdir()
    files = {}
    for group, named in tensors.items():
        if named:
            path = unfinished / f"{group}.safetensors"
            save_file({name: _owned_copy(tensor) for name, tensor in named.items()}, path)
            sync_to_disk(path)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256_of_file(path)}
    content = {"format": FORMAT, "step": step, "files": files, "state": dict(state)}
    write_atomically(unfinished / STATE, json.dumps({**content, "sha256": _sha256_of(content)}, indent=1))
    sync_to_disk(unfinished)
    if final.exists():
        _remove(final)
    unfinished.rename(final)
    sync_to_disk(folder)
    for old in find_checkpoints(folder)[:-keep]:
        _remove(old)
    return final


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and verify every byte of it.

    Raises:
        CheckpointError: a file is missing, cut short, altered or of another format.
    """
    content = _read_state(path / STATE)
    tensors = {}
    for name, expected in content["files"].items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"checkpoint file '{file}' is missing")
        size = file.stat().st_size
        if size != expected["bytes"]:
            raise CheckpointError(f"checkpoint file '{file}' is damaged: {size} bytes instead of {expected['bytes']}")
        if _sha256_of_file(file) != expected["sha256"]:
            raise CheckpointError(f"checkpoint file '{file}' is damaged: its SHA-256 differs from the one in {STATE}")
        try:
            tensors[file.stem] = load_file(file)
        except SafetensorError as error:
            raise CheckpointError(f"checkpoint file '{file}' cannot be read: {error}") from error
    return Checkpoint(content["step"], tensors, content["state"])


def _read_state(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"checkpoint file '{path}' is missing")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"checkpoint file '{path}' is damaged: {error}") from error
    if not isinstance(content, dict) or content.pop("sha256", None) != _sha256_of(content):
        raise CheckpointError(f"checkpoint file '{path}' is damaged: its SHA-256 differs from the one it holds")
    if content["format"] != FORMAT:
        raise CheckpointError(f"checkpoint file '{path}' has format {content['format']}; this version reads {FORMAT}")
    return content


def _owned_copy(tensor: Tensor) -> Tensor:
    # safetensors refuses tensors that share memory, as tied weights do.
    return tensor.detach().to("cpu", copy=True).contiguous()


def _remove(checkpoint: Path) -> None:
    # Renamed first: a crash in the middle of deleting must not leave half a checkpoint under the name of a whole one.
    doomed = checkpoint.with_name(f"{UNFINISHED}{checkpoint.name}_removed")
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _sha256_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
