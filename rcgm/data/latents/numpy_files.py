"""Latents in one .npy file a sample, with the labels in a dataset.json, as the preprocessing of REPA writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rcgm.data.labels import labels_from
from rcgm.data.latents.store import require_latents
from rcgm.data.paths import is_below

LABEL_FILE = "dataset.json"


class NumpyFiles:
    """The samples that `dataset.json` lists: `{"labels": [["00000/img00000000.npy", 3], ...]}`, in that order.

    Each file holds `[C, H, W]`, or `[1, C, H, W]`. A file is opened when it is read.

    Args:
        folder: holds `dataset.json`, whose paths are relative to it.

    Raises:
        ValueError: the list is damaged or empty, or names files elsewhere; or the first file is damaged. When a sample
            is read: its file is missing, damaged or unlike the first.
    """

    has_flips = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        listing = folder / LABEL_FILE
        try:
            entries = json.loads(listing.read_text(encoding="utf-8"))["labels"]
            self._names = [str(name) for name, _ in entries]
            labels = [label for _, label in entries]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f'cannot read "labels", a list of [file, label], from {listing}: {error!r}') from error
        if not self._names:
            raise ValueError(f"{listing} lists no file")
        outside = [name for name in self._names if not is_below(name)]
        if outside:
            raise ValueError(f"files in {listing} must lie below its folder, got {outside[0]!r}: correct the list")
        wrong = [label for label in labels if isinstance(label, bool) or not isinstance(label, (int, type(None)))]
        if wrong or len({label is None for label in labels}) == 2:
            raise ValueError(f"{listing} needs an integer for every file, or null for all; got {wrong[:3] or 'both'}")
        self.labels: Tensor | None = None if labels[0] is None else labels_from(labels, str(listing))
        self.shape: tuple[int, int, int] | None = None
        self.shape = tuple(self.read(0, False).shape)

    def __len__(self) -> int:
        return len(self._names)

    def read(self, index: int, flipped: bool) -> Tensor:
        """float32 `[C, H, W]`; see `Store`."""
        path = self._folder / self._names[index]
        if not path.is_file():  # a pipe would block its reader for ever
            raise ValueError(f"cannot read {path}: it is no file that exists")
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {path}: {error}") from error
        array = array[0] if array.ndim == 4 and array.shape[0] == 1 else array
        shape = require_latents(array.shape, array.dtype.name, str(path))
        if self.shape is not None and shape != self.shape:
            raise ValueError(f"{path} must be {list(self.shape)}, as the first file is, got {list(shape)}")
        return torch.from_numpy(array.astype(np.float32, copy=False))

    def describe(self, index: int) -> str:
        """Where a sample lies; see `Store`."""
        return str(self._folder / self._names[index])
