"""Arrays in files, read a few rows at a time.

Nothing here unpickles: a file can come from anywhere, and a pickle can run any code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import safe_open

SUFFIXES = (".npy", ".npz", ".safetensors")


class Rows(Protocol):
    """An array `[N, ...]` whose rows can be read. `in_memory` tells whether reading one touches no file."""

    in_memory: bool
    shape: tuple[int, ...]
    dtype: str

    def read(self, indices: torch.Tensor) -> torch.Tensor:
        """Rows at the int64 indices `[B]`: floating numbers of any width as float32, uint8 as uint8, else int64.

        Raises:
            ValueError: the file has been cut short since it was opened.
        """
        ...


class _Whole:
    """A file that is mapped into memory, and has to stay whole: reading what was cut off ends the process.

    A file that is removed or replaced by another one is no harm, as what is mapped stays.
    """

    def __init__(self, path: Path) -> None:
        status = path.stat()
        self._path = path
        self._file = status.st_dev, status.st_ino
        self._size = status.st_size

    def require(self) -> None:
        """Raise ValueError if the file has become shorter."""
        try:
            status = self._path.stat()
        except OSError:
            return
        if (status.st_dev, status.st_ino) == self._file and status.st_size < self._size:
            raise ValueError(
                f"{self._path} must stay whole while it is read, got {status.st_size} bytes instead of {self._size}: "
                "another program has cut it short; restore it and go on from the last checkpoint"
            )


def array_names(path: Path) -> list[str]:
    """Names of the arrays in a .npz or .safetensors file; a .npy file has one, named "".

    Raises:
        ValueError: no such file, a suffix that is none of these, or a damaged file.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} must end in one of {', '.join(SUFFIXES)}, got {path.suffix!r}")
    if not path.is_file():
        raise ValueError(f"{path} must be a file that exists")
    if path.suffix == ".npy":
        return [""]
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return list(file.keys())
        with np.load(path, allow_pickle=False) as archive:
            return list(archive.files)
    # numpy, zipfile and safetensors each raise their own, safetensors not even a subclass of ValueError or OSError.
    except Exception as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def open_array(path: Path, name: str) -> Rows:
    """The array `name` of a file, one of `array_names(path)`.

    .npy and .safetensors stay on disk, mapped into memory; .npz is read, as a member of a zip file cannot be mapped.

    Raises:
        ValueError: the array is damaged or holds pickled objects.
    """
    try:
        if path.suffix == ".npy":
            return _MappedNumpy(path)
        if path.suffix == ".safetensors":
            return _MappedSafetensors(path, name)
        with np.load(path, allow_pickle=False) as archive:
            return _MemoryNumpy(archive[name])
    # As above.
    except Exception as error:
        which = f"{name!r} of {path}" if name else str(path)
        raise ValueError(f"cannot read {which}: {error}") from error


def open_arrays(path: Path) -> dict[str, Rows]:
    """All arrays of a .safetensors file. They share one mapping, of which the system gives a process some ten thousand.

    Raises:
        ValueError: no such file, or a damaged one.
    """
    names = array_names(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: _MappedSafetensors(path, name, file.get_tensor(name)) for name in names}
    # As above.
    except Exception as error:
        raise ValueError(f"cannot read {path}: {error}") from error


class _MemoryNumpy:
    in_memory = True

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.shape = array.shape
        self.dtype = array.dtype.name

    def read(self, indices: torch.Tensor) -> torch.Tensor:
        return _numpy_rows(self._array, indices)


class _MappedNumpy:
    in_memory = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self._whole = _Whole(path)
        self._array = np.load(path, mmap_mode="r", allow_pickle=False)
        self.shape = self._array.shape
        self.dtype = self._array.dtype.name

    def read(self, indices: torch.Tensor) -> torch.Tensor:
        self._whole.require()
        return _numpy_rows(self._array, indices)

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapped array pickles as a copy of the whole file; a worker process maps the file itself.
        return _MappedNumpy, (self._path,)


class _MappedSafetensors:
    in_memory = False

    def __init__(self, path: Path, name: str, tensor: torch.Tensor | None = None) -> None:
        self._path = path
        self._name = name
        self._whole = _Whole(path)
        if tensor is None:
            with safe_open(path, framework="pt") as file:
                tensor = file.get_tensor(name)
        self._tensor = tensor
        self.shape = tuple(self._tensor.shape)
        self.dtype = str(self._tensor.dtype).removeprefix("torch.")

    def read(self, indices: torch.Tensor) -> torch.Tensor:
        self._whole.require()
        rows = self._tensor.index_select(0, indices)
        if rows.is_floating_point():
            return rows.float()
        return rows if rows.dtype == torch.uint8 else rows.long()

    def __reduce__(self) -> tuple[Any, ...]:
        # A tensor would be sent to the worker whole.
        return _MappedSafetensors, (self._path, self._name)


def _numpy_rows(array: np.ndarray, indices: torch.Tensor) -> torch.Tensor:
    rows = np.asarray(array[indices.numpy()])
    if rows.dtype.kind == "f":
        rows = rows.astype(np.float32, copy=False)
    elif rows.dtype != np.uint8:
        rows = rows.astype(np.int64, copy=False)
    return torch.from_numpy(rows)
