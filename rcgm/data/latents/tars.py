"""Latents in tar files as WebDataset names their members: `KEY.latents.npy`, `KEY.latents_flip.npy`, `KEY.cls`.

Any sample is read by its offset, so a run resumes exactly and every epoch is a permutation of all samples. The
webdataset package itself reads a tar file from its beginning and shuffles within a buffer, which allows neither.
"""

from __future__ import annotations

import bisect
import io
import itertools
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor

from rcgm.data.latents.shards import FLIPS, LATENTS
from rcgm.data.latents.store import require_latents
from rcgm.data.latents.tar_index import load_index


class Tars:
    """The samples of several tar files, laid end to end. The files are opened when they are read.

    A member holds `[C, H, W]` or `[1, C, H, W]`: a .npy file, or a .safetensors file with the key `latents` and, for
    the mirrored image, `latents_flip`. Labels are the integer in `KEY.cls`, or that under "label" in `KEY.json`.

    Args:
        paths: of the files.
        index_folder: where their indices are kept; None: beside each.

    Raises:
        ValueError: what `load_index` raises; the files hold samples of different kinds. When a sample is read: its
            bytes are damaged or it is unlike the first.
    """

    def __init__(self, paths: list[Path], index_folder: Path | None) -> None:
        self._paths = paths
        self._indices = [load_index(path, index_folder) for path in paths]
        kinds = {(index.suffix, index.flips is None, index.labels is None) for index in self._indices}
        if len(kinds) > 1:
            raise ValueError(
                f"tar files in {paths[0].parent} must all have members of the same kinds: move others away"
            )
        self._in_safetensors = self._indices[0].suffix.endswith("safetensors")
        labels = [index.labels for index in self._indices if index.labels is not None]
        self.labels = torch.cat(labels) if labels else None
        self._ends = list(itertools.accumulate(len(index.latents) for index in self._indices))
        self.shape: tuple[int, int, int] | None = None
        self.has_flips = self._indices[0].flips is not None or (
            self._in_safetensors and FLIPS in self._tensors(*self._member(0, False))
        )
        self.shape = tuple(self.read(0, False).shape)

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, index: int, flipped: bool) -> Tensor:
        """float32 `[C, H, W]`; see `Store`."""
        path, offset, size = self._member(index, flipped)
        try:
            if self._in_safetensors:
                latents = self._tensors(path, offset, size)[FLIPS if flipped else LATENTS]
                dtype = str(latents.dtype).removeprefix("torch.")
            else:
                latents = np.load(io.BytesIO(_bytes(path, offset, size)), allow_pickle=False)
                dtype = latents.dtype.name
        # numpy and safetensors each raise their own for damaged bytes.
        except Exception as error:
            raise ValueError(f"cannot read {self.describe(index)}: {error!r}") from error
        latents = latents[0] if latents.ndim == 4 and latents.shape[0] == 1 else latents
        shape = require_latents(tuple(latents.shape), dtype, self.describe(index))
        if self.shape is not None and shape != self.shape:
            raise ValueError(f"{self.describe(index)} has shape {list(shape)} and the first {list(self.shape)}")
        return torch.as_tensor(latents).float()

    def describe(self, index: int) -> str:
        """Where a sample lies; see `Store`."""
        path, offset, _ = self._member(index, False)
        return f"the sample at byte {offset} of {path}"

    def _member(self, index: int, flipped: bool) -> tuple[Path, int, int]:
        tar = bisect.bisect_right(self._ends, index)
        row = index - (self._ends[tar - 1] if tar else 0)
        flips = self._indices[tar].flips
        table = flips if flipped and flips is not None else self._indices[tar].latents
        offset, size = table[row].tolist()
        return self._paths[tar], offset, size

    def _tensors(self, path: Path, offset: int, size: int) -> dict[str, Tensor]:
        return load(_bytes(path, offset, size))


def _bytes(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)
