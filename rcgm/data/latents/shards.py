"""Latents in few files of many samples: safetensors shards as LightningDiT writes them, or numpy arrays.

A safetensors shard has the keys `latents` and, where there are any, `latents_flip` and `labels`; numpy arrays have
these names with the suffix .npy. The files are mapped into memory: a sample costs the reading of its own bytes.
"""

from __future__ import annotations

import bisect
import itertools
from pathlib import Path

import torch
from torch import Tensor

from rcgm.data.latents.store import require_latents
from rcgm.data.rows import Rows, array_names, open_array

LATENTS, FLIPS, LABELS = "latents", "latents_flip", "labels"


class Shards:
    """The samples of several shards, laid end to end. The shards may differ in length.

    Args:
        shards: by key, the file and the name in it of each array.

    Raises:
        ValueError: an array is missing, damaged, or of a shape or dtype that does not go with the others.
    """

    def __init__(self, shards: list[dict[str, tuple[Path, str]]]) -> None:
        self._where: list[Path] = []
        self._latents: list[Rows] = []
        self._flips: list[Rows] = []
        labels: list[Tensor] = []
        keys = set(shards[0])
        for shard in shards:
            path = next(iter(shard.values()))[0]
            if LATENTS not in shard:
                raise ValueError(f"{path} has no {LATENTS!r}; it holds {sorted(shard)}")
            if keys != set(shard):
                raise ValueError(f"{path} must hold {sorted(keys)}, as the first shard does, got {sorted(shard)}")
            rows = {key: open_array(*where) for key, where in shard.items()}
            self._check_shapes(rows, path)
            self._where.append(path)
            self._latents.append(rows[LATENTS])
            if FLIPS in rows:
                self._flips.append(rows[FLIPS])
            if LABELS in rows:
                labels.append(rows[LABELS].read(torch.arange(rows[LABELS].shape[0])).long())
        self.shape = self._latents[0].shape[1:]
        self.labels = torch.cat(labels) if labels else None
        self.has_flips = bool(self._flips)
        self._ends = list(itertools.accumulate(rows.shape[0] for rows in self._latents))

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, index: int, flipped: bool) -> Tensor:
        """float32 `[C, H, W]`; see `Store`."""
        shard, row = self._locate(index)
        return (self._flips if flipped else self._latents)[shard].read(torch.tensor([row]))[0]

    def describe(self, index: int) -> str:
        """Where a sample lies; see `Store`."""
        shard, row = self._locate(index)
        return f"row {row} of {self._where[shard]}"

    def _locate(self, index: int) -> tuple[int, int]:
        shard = bisect.bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def _check_shapes(self, rows: dict[str, Rows], path: Path) -> None:
        latents = rows[LATENTS]
        sample = require_latents(latents.shape, latents.dtype, f"{LATENTS!r} of {path}", axes=4)
        if self._latents and sample != self._latents[0].shape[1:]:
            first = list(self._latents[0].shape[1:])
            raise ValueError(f"{path} holds samples of shape {list(sample)} and the first shard {first}")
        if FLIPS in rows:
            require_latents(rows[FLIPS].shape, rows[FLIPS].dtype, f"{FLIPS!r} of {path}", axes=4)
            if rows[FLIPS].shape != latents.shape:
                raise ValueError(
                    f"{FLIPS!r} of {path} must be {list(latents.shape)}, as {LATENTS!r} is, got "
                    f"{list(rows[FLIPS].shape)}"
                )
        if LABELS in rows:
            labels = rows[LABELS]
            if labels.shape != latents.shape[:1] or not labels.dtype.startswith(("int", "uint")):
                raise ValueError(
                    f"{LABELS!r} of {path} must be integers [{latents.shape[0]}], got {labels.dtype} "
                    f"{list(labels.shape)}"
                )


def safetensors_shards(paths: list[Path]) -> Shards:
    """Shards in safetensors files, in the order given; keys other than the three are passed over."""
    return Shards(
        [{name: (path, name) for name in array_names(path) if name in (LATENTS, FLIPS, LABELS)} for path in paths]
    )


def numpy_arrays(folder: Path) -> Shards:
    """One shard of the files latents.npy, latents_flip.npy and labels.npy in a folder, the last two if they exist."""
    files = {name: folder / f"{name}.npy" for name in (LATENTS, FLIPS, LABELS)}
    return Shards([{name: (path, "") for name, path in files.items() if path.is_file()}])
