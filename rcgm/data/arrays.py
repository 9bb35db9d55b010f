"""Samples in a .npy, .npz or .safetensors file: images, latents or points."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from rcgm.checks import whole_number
from rcgm.data.array_layout import check_scale, layout_of
from rcgm.data.fingerprint import content_indices, hash_of_tensors
from rcgm.data.info import DataInfo
from rcgm.data.labels import check_labels, count_classes
from rcgm.data.rows import Rows, array_names, open_array

SAMPLE_KEYS = ("images", "latents", "samples", "x")
LABEL_KEYS = ("labels", "y")


class Arrays(Dataset):
    """Samples `[N, D]` (points), `[N, C, H, W]` (images, latents) or `[N, H, W]` (pixels) of one array in a file.

    uint8 is taken for pixels and becomes [-1, 1]; so do floating numbers with a `value_range`. Without one they are
    taken as they are, and refused where their scale is implausible: `value_range` or the file has to be changed then.
    .npy and .safetensors are mapped into memory and read row by row. Files with pickled objects are refused.
    `dataset[i]` is `(float32 tensor, label)`, the label being -1 without labels.

    Args:
        path: a file that ends in .npy, .npz or .safetensors.
        samples_key: name of the array. None: the only one that is named images, latents, samples or x; else the only
            one in the file besides the labels. Not for .npy, which has no names.
        labels_key: name of the labels, integers `[N]`. None: the one that is named labels or y, if there is one. Not
            for .npy.
        labels_path: a .npy file with the labels, instead of labels_key.
        num_classes: number of classes. None: the largest label plus one, of which half or more have to occur.
        channels_last: the array is `[N, H, W, C]`. None: it is not, and one that looks so is refused.
        value_range: lowest and highest value of pixels in floating numbers, which become -1 and 1.

    Raises:
        TypeError: num_classes is no integer.
        ValueError: a file that cannot be read, holds pickled objects, lacks a key, or holds an array of a shape or
            dtype that is not as above, or of an implausible scale; labels that do not match, or that skip most
            classes; value_range that is no range, or given with uint8. When a sample is read: values that are not
            finite or outside of value_range, or a file that has been cut short.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        samples_key: str | None = None,
        labels_key: str | None = None,
        labels_path: str | os.PathLike[str] | None = None,
        num_classes: int | None = None,
        channels_last: bool | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self._path = Path(path)
        if self._path.suffix == ".npy" and (samples_key is not None or labels_key is not None):
            raise ValueError("samples_key and labels_key must be left out for a .npy file, which has no names")
        if labels_key is not None and labels_path is not None:
            raise ValueError(f"labels_path must be left out with labels_key, got {labels_path!r} and {labels_key!r}")
        names = array_names(self._path)
        if labels_key is None and labels_path is None:
            labels_key = self._only("labels_key", LABEL_KEYS, names)
        if samples_key is None:
            samples_key = self._guess_samples(names, labels_key)
        self._rows = self._open("samples_key", samples_key, names)
        self.in_memory = self._rows.in_memory
        self._value_range = _range_of_pixels(value_range, self._rows.dtype)
        pixels = self._value_range is not None
        self._layout = layout_of(
            str(self._path), self._rows.shape, self._rows.dtype, pixels=pixels, channels_last=channels_last
        )
        shape = self._layout.shape
        if not pixels:
            check_scale(str(self._path), self._rows.read(torch.tensor(content_indices(len(self), shape))))
        self.labels: torch.Tensor | None = None
        if labels_path is not None:
            labels_file = Path(labels_path)
            if labels_file.suffix != ".npy":
                raise ValueError(f"labels_path must be a .npy file, got {str(labels_file)!r}")
            self.labels = _read_labels(open_array(labels_file, array_names(labels_file)[0]), str(labels_file))
        elif labels_key is not None:
            self.labels = _read_labels(self._open("labels_key", labels_key, names), f"{labels_key!r} of {self._path}")
        if num_classes is not None:
            num_classes = whole_number("num_classes", num_classes, 1)
        elif self.labels is not None:
            num_classes = count_classes(self.labels)
        check_labels("labels", self.labels, len(self), num_classes)
        self.info = DataInfo(
            shape=shape,
            num_classes=num_classes,
            kind="points" if len(shape) == 1 else "images",
            value_range=(-1.0, 1.0) if pixels else None,
        )

    def __len__(self) -> int:
        return self._rows.shape[0]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of a data set of {len(self)} samples")
        samples, _ = self.take(torch.tensor([index % len(self)]))
        return samples[0], -1 if self.labels is None else int(self.labels[index])

    def take(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Samples float32 `[B, ...]` and labels int64 `[B]` (or None) at the int64 `indices` `[B]`."""
        samples = self._layout.arrange(self._rows.read(indices))
        if samples.dtype == torch.uint8:
            samples = samples.float().div_(127.5).sub_(1.0)
        else:
            self._check_values(samples, indices)
            if self._value_range is not None:
                low, high = self._value_range
                samples = samples.sub(low).mul_(2.0 / (high - low)).sub_(1.0).clamp_(-1.0, 1.0)
        labels = None if self.labels is None else self.labels.index_select(0, indices)
        return samples.contiguous(), labels

    def fingerprint(self) -> dict[str, Any]:
        """See `rcgm.data.data_fingerprint`: stored rows, evenly spaced."""
        indices = content_indices(len(self), self.info.shape)
        return {"content": hash_of_tensors([self._rows.read(torch.tensor(indices))])}

    def _check_values(self, samples: torch.Tensor, indices: torch.Tensor) -> None:
        if not torch.isfinite(samples).all():
            finite = torch.isfinite(samples.flatten(1)).all(dim=1)
            raise ValueError(f"sample {int(indices[~finite][0])} of {self._path} holds values that are not finite")
        if self._value_range is not None:
            low, high = self._value_range
            outside = ((samples < low) | (samples > high)).flatten(1).any(dim=1)
            if outside.any():
                raise ValueError(
                    f"value_range must hold all pixels, got {[low, high]} and others in sample "
                    f"{int(indices[outside][0])} of {self._path}: make it wider"
                )

    def _open(self, argument: str, key: str, names: list[str]) -> Rows:
        if key not in names:
            raise ValueError(f"{argument} must be one of {sorted(names)}, the arrays in {self._path}, got {key!r}")
        return open_array(self._path, key)

    def _only(self, argument: str, wanted: tuple[str, ...], names: list[str]) -> str | None:
        present = [name for name in wanted if name in names]
        if len(present) > 1:
            raise ValueError(f"{argument} must be given, as {self._path} holds {present}: name one of them")
        return present[0] if present else None

    def _guess_samples(self, names: list[str], labels_key: str | None) -> str:
        key = self._only("samples_key", SAMPLE_KEYS, names)
        others = [name for name in names if name != labels_key]
        if key is None and len(others) == 1:
            key = others[0]
        if key is None:
            raise ValueError(f"samples_key must be given, as {self._path} holds {sorted(names)}: name one of them")
        return key


def _range_of_pixels(given: tuple[float, float] | None, dtype: str) -> tuple[float, float] | None:
    if dtype == "uint8":
        if given is not None:
            raise ValueError(f"value_range must be left out of uint8 samples, which span 0 to 255, got {list(given)}")
        return 0.0, 255.0
    if given is None:
        return None
    if len(given) != 2 or not all(map(math.isfinite, given)) or not given[0] < given[1]:
        raise ValueError(f"value_range must be (low, high) with low below high, got {given!r}")
    return float(given[0]), float(given[1])


def _read_labels(rows: Rows, where: str) -> torch.Tensor:
    if len(rows.shape) != 1 or not rows.dtype.startswith(("int", "uint")):
        raise ValueError(f"labels in {where} must be integers [N], got {rows.dtype} {list(rows.shape)}")
    return rows.read(torch.arange(rows.shape[0])).long()
