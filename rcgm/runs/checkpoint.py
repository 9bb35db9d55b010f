"""Checkpoints: one folder per step, complete or absent, without pickles, for any number of processes.

A checkpoint ``step_00001000/`` holds ``.safetensors`` files, one per group of tensors and process, and ``state.json``
with the plain values, the size and the SHA-256 of every other file, and the SHA-256 of its own content. torch's
distributed checkpoint writes the files. Each process writes its pieces of sharded tensors, and the header of the file
says where they belong. The folder is written under another name, flushed to disk and renamed when every process is
done. So a folder of that name is complete, and later damage is found when it is read. All processes have to see the
same files.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from rcgm.distributed.shares import Processes
from rcgm.files import sha256_of, sync_to_disk, write_atomically
from rcgm.runs.checkpoint_state import FORMAT, STATE, CheckpointError, file_problem, hash_of_content, read_state

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "find_checkpoints",
    "latest_checkpoint",
    "read_checkpoint",
    "save_checkpoint",
    "snapshot",
]

COMPLETE = re.compile(r"step_(\d{8,})")
WRITTEN = re.compile(r"shard-(\d+)-model-(\d+)-of-\d+\.safetensors")  # the writer's names
WRITTEN_BY_MANY = re.compile(r"-\d{5}-of-\d{5}$")
UNFINISHED = "unfinished_"

Groups = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files have been verified.

    Args:
        path: its folder.
        step: number of it.
        state: plain values.
        layout: shape and dtype of the tensors, by group and name.
        files: names of those that hold tensors and have been verified.
    """

    path: Path
    step: int
    state: dict[str, Any]
    layout: dict[str, dict[str, tuple[torch.Size, torch.dtype]]]
    files: tuple[str, ...]

    def read_into(self, group: str, tensors: Mapping[str, Tensor]) -> None:
        """Fill ``tensors`` with those of ``group``; of a sharded one the piece that lies here, whoever wrote it.

        Raises:
            CheckpointError: names or shapes are not those of the checkpoint.
        """
        saved = self.layout.get(group, {})
        for name in sorted(saved.keys() ^ tensors.keys()):
            what = "is missing in" if name in tensors else "belongs to nothing here, and is in"
            raise CheckpointError(f"tensor '{name}' {what} group '{group}' of '{self.path}'")
        for name, tensor in tensors.items():
            if tensor.shape != saved[name][0]:
                raise CheckpointError(
                    f"tensor '{name}' in group '{group}' of '{self.path}' has the shape {list(saved[name][0])}, and "
                    f"{list(tensor.shape)} is needed"
                )
        if tensors:
            content = {f"{group}/{name}": tensor.detach() for name, tensor in tensors.items()}
            with _quiet():
                dcp.load(content, storage_reader=_reader(self.path, self.files), no_dist=True)

    def read(self, group: str) -> dict[str, Tensor]:
        """All of ``group``, whole, on the CPU; empty for a group that is not there."""
        tensors = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in self.layout.get(group, {}).items()}
        self.read_into(group, tensors)
        return tensors

    def value(self, name: str, kind: type | tuple[type, ...]) -> Any:
        """The plain value called ``name``, which has to be of ``kind``.

        Raises:
            CheckpointError: it is missing or of another type.
        """
        if name not in self.state:
            raise CheckpointError(f"checkpoint file '{self.path / STATE}' is damaged: '{name}' is missing")
        value = self.state[name]
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if float in kinds and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kinds):
            raise CheckpointError(f"checkpoint file '{self.path / STATE}' is damaged: '{name}' is {value!r}")
        return value

    @cached_property
    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """All groups, read at the first use and kept."""
        return {group: self.read(group) for group in self.layout}


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


def snapshot(tensors: Groups) -> dict[str, dict[str, Tensor]]:
    """Copies of ``tensors`` on the CPU, of sharded ones of the piece that lies here, that share memory with nothing."""
    return {
        group: {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in named.items()}
        for group, named in tensors.items()
    }


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Groups,
    state: Mapping[str, Any],
    *,
    keep: int,
    processes: Processes | None = None,
    group: dist.ProcessGroup | None = None,
) -> Path:
    """Write ``folder/step_00001000``, then delete all but the newest ``keep`` checkpoints.

    Every process calls it, and returns when its part is written; rank 0 completes the checkpoint.

    Args:
        folder: made if need be.
        step: of the checkpoint; one that is there already is replaced.
        tensors: groups of named tensors, the same names everywhere; those that are not sharded are the same too. No two
            may share memory, as tied weights do: see :func:`snapshot`.
        state: values that JSON can hold; floats survive exactly. Those of rank 0 are written.
        keep: at least 1.
        processes: that write it together.
        group: for messages between them, of CPU tensors; None for the default group.

    Returns:
        The checkpoint's folder.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    processes = Processes() if processes is None else processes
    final = folder / f"step_{step:08d}"
    unfinished = folder / f"{UNFINISHED}{final.name}"
    if processes.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(leftover)
        unfinished.mkdir()
    _gathered(None, processes, group)  # nobody writes before the leftovers are gone
    written = _gathered(_write(unfinished, tensors, processes, group), processes, group)
    if processes.is_main:
        files = {name: entry for part in written for name, entry in sorted(part.items())}
        content = {"format": FORMAT, "step": step, "files": files, "state": dict(state)}
        write_atomically(unfinished / STATE, json.dumps({**content, "sha256": hash_of_content(content)}, indent=1))
        sync_to_disk(unfinished)
        if final.exists():
            _remove(final)
        unfinished.rename(final)
        sync_to_disk(folder)
        for old in find_checkpoints(folder)[:-keep]:
            _remove(old)
    return final


def read_checkpoint(
    path: Path, processes: Processes | None = None, *, groups: Collection[str] | None = None
) -> Checkpoint:
    """Verify every byte of a checkpoint, the files shared out among ``processes``, and find out what is in it.

    Args:
        path: its folder.
        processes: that read it together.
        groups: of tensors that are wanted; the files of other groups need not be there. None for all.

    Raises:
        CheckpointError: a file is missing, cut short, altered or of another format; in every process, whichever
            noticed.
    """
    processes = Processes() if processes is None else processes
    content = read_state(path / STATE)
    names = sorted(name for name in content["files"] if groups is None or _group_of(name) in groups)
    problem = file_problem(
        path, {name: content["files"][name] for name in names[processes.rank :: processes.world_size]}
    )
    for found in _gathered(problem, processes):
        if found is not None:
            raise CheckpointError(found)
    layout: dict[str, dict[str, tuple[torch.Size, torch.dtype]]] = {}
    try:
        entries = _reader(path, names).read_metadata().state_dict_metadata
    except SafetensorError as error:
        raise CheckpointError(f"a file of checkpoint '{path}' cannot be read: {error}") from error
    for key, entry in entries.items():
        group, _, name = key.partition("/")
        layout.setdefault(group, {})[name] = (entry.size, entry.properties.dtype)
    return Checkpoint(path, content["step"], content["state"], layout, tuple(names))


def _write(
    folder: Path, tensors: Groups, processes: Processes, group: dist.ProcessGroup | None
) -> dict[str, dict[str, Any]]:
    """Write this process's pieces; name, size and hash of its files."""
    groups = [name for name, named in tensors.items() if named]
    content = {f"{name}/{key}": tensor for name in groups for key, tensor in tensors[name].items()}
    numbers = {key: 1 + groups.index(key.partition("/")[0]) for key in content}
    writer = HuggingFaceStorageWriter(str(folder), numbers, save_distributed=True)
    with _quiet():
        try:
            dcp.save(content, storage_writer=writer, process_group=group, no_dist=processes.world_size == 1)
        except CheckpointException as error:  # which is no Exception, and hides what went wrong
            causes = [cause for cause, _ in error.failures.values() if isinstance(cause, OSError)]
            if not causes:
                raise
            raise OSError(causes[0].errno, causes[0].strerror, str(folder)) from error
    files = {}
    for path in sorted(folder.iterdir()):
        match = WRITTEN.fullmatch(path.name)
        if match is None or int(match[1]) != processes.rank + 1:
            continue
        part = "" if processes.world_size == 1 else f"-{processes.rank + 1:05d}-of-{processes.world_size:05d}"
        path = path.rename(folder / f"{groups[int(match[2]) - 1]}{part}.safetensors")
        sync_to_disk(path)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    return files


def _group_of(file: str) -> str:
    return WRITTEN_BY_MANY.sub("", file.removesuffix(".safetensors"))


def _reader(folder: Path, names: Collection[str]) -> HuggingFaceStorageReader:
    """A reader of these files, whatever else lies in the folder."""
    reader = HuggingFaceStorageReader(str(folder))
    listed, everything = frozenset(names), reader.fs.ls
    reader.fs.ls = lambda path: [file for file in everything(path) if Path(file).name in listed]
    return reader


def _gathered(value: Any, processes: Processes, group: dist.ProcessGroup | None = None) -> list[Any]:
    """``value`` of every process, by rank."""
    values = [value] * processes.world_size
    if processes.world_size > 1:
        dist.all_gather_object(values, value, group=group)
    return values


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # The distributed checkpoint warns where it is used by one process on its own.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _remove(checkpoint: Path) -> None:
    # Renamed first: a crash in the middle of deleting must not leave half a checkpoint under the name of a whole one.
    doomed = checkpoint.with_name(f"{UNFINISHED}{checkpoint.name}_removed")
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step_"))
