"""A data set of encoded images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rcgm.checks import whole_number
from rcgm.data.fingerprint import content_indices, hash_of_tensors
from rcgm.data.info import DataInfo
from rcgm.data.labels import check_labels, count_classes
from rcgm.data.latents.layouts import Layout, open_store
from rcgm.data.latents.manifest import STATISTICS, read_manifest
from rcgm.data.latents.moments import draw, latent_channels
from rcgm.data.normalisation import STATISTICS_SUFFIXES, Normalisation, read_statistics


class Latents(Dataset):
    """Latents `[C, H, W]` of images, normalised by channel, or moments that latents are drawn from at each reading.

    `dataset[i]` is `(float32 [C, H, W], label)`, the label being -1 without labels; of moments it is the mean. In
    training the batch stream chooses between the latents of an image and of its mirror image with probability 1/2 each,
    where both are stored, and draws from the moments, both as a function of (seed, epoch, index) alone.

    Args:
        path: the folder; see docs/data.md for the layouts.
        layout: "safetensors" (shards in LightningDiT's layout), "webdataset" (tar files), "numpy" (one array, or one
            file a sample), or "auto": the one whose files the folder holds.
        moments: "none": latents are stored. "log_variance" and "std": means, followed on the channel axis by log
            variances or standard deviations. "auto": what the manifest of the encode command says, else "none".
        flip: whether to choose between an image and its mirror image, where both are stored.
        num_classes: labels are in `[0, num_classes)`. None: what the manifest says, else the largest label
            plus one, of which half or more have to occur.
        statistics: file with "mean" and "std" by channel (.json, .safetensors or .pt). None: `latents_stats.*` of the
            folder, if there is one; else latents are taken as they are.
        mean, std: these instead, one number a channel or one for all; both or neither.
        scale: factor after the normalisation `(z - mean) / std`.
        index_folder: where indices of tar files are kept; None: beside each.

    Raises:
        TypeError: num_classes is no integer.
        ValueError: an argument outside of the above; a file is missing, damaged, or holds an array of another shape
            or dtype; labels out of range; statistics that are not finite or do not match the channels. When a sample is
            read: values that are not finite.
    """

    in_memory = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        layout: Layout = "auto",
        moments: Literal["auto", "none", "log_variance", "std"] = "auto",
        flip: bool = True,
        num_classes: int | None = None,
        statistics: str | os.PathLike[str] | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        scale: float = 1.0,
        index_folder: str | os.PathLike[str] | None = None,
    ) -> None:
        folder = Path(path)
        manifest = read_manifest(folder)
        self._store = open_store(folder, layout, None if index_folder is None else Path(index_folder))
        if manifest is not None and manifest.samples != len(self._store):
            raise ValueError(
                f"{folder} holds {len(self._store)} samples and its manifest says {manifest.samples}: shards were "
                "added or lost; run the encode command again"
            )
        if moments == "auto":
            moments = "none" if manifest is None else manifest.moments
        self._moments = moments
        stored_channels, height, width = self._store.shape
        channels = latent_channels(stored_channels, moments)
        self._flip = flip and self._store.has_flips
        self._normalisation = _normalisation(folder, channels, statistics, mean, std, scale)
        class_names = () if manifest is None else manifest.class_names
        if num_classes is not None:
            num_classes = whole_number("num_classes", num_classes, 1)
        elif self._store.labels is not None:
            num_classes = len(class_names) or count_classes(self._store.labels)
        check_labels("labels", self._store.labels, len(self._store), num_classes)
        self.info = DataInfo(
            shape=(channels, height, width),
            num_classes=num_classes,
            kind="images",
            class_names=class_names if len(class_names) == num_classes else (),
            normalisation=self._normalisation,
        )

    @property
    def labels(self) -> Tensor | None:
        """int64 `[N]`, or None without labels."""
        return self._store.labels

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of a data set of {len(self)} samples")
        return self._sample(index % len(self), False, None)

    def augmented(self, index: int, generator: torch.Generator) -> tuple[Tensor, int]:
        """As `dataset[index]`, of the mirrored image with probability 1/2, and drawn from the moments."""
        flipped = self._flip and bool(torch.rand((), generator=generator) < 0.5)
        return self._sample(index, flipped, generator)

    def fingerprint(self) -> dict[str, Any]:
        """See `rcgm.data.data_fingerprint`: what is stored of samples, evenly spaced."""
        indices = content_indices(len(self), self._store.shape)
        return {"content": hash_of_tensors(self._store.read(index, False) for index in indices)}

    def _sample(self, index: int, flipped: bool, generator: torch.Generator | None) -> tuple[Tensor, int]:
        stored = self._store.read(index, flipped)
        if not torch.isfinite(stored).all():
            raise ValueError(f"{self._store.describe(index)} holds values that are not finite")
        latents = self._normalisation.apply(draw(stored, self._moments, generator))
        return latents, -1 if self._store.labels is None else int(self._store.labels[index])


def _normalisation(
    folder: Path,
    channels: int,
    statistics: str | os.PathLike[str] | None,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
    scale: float,
) -> Normalisation:
    if (mean is None) != (std is None):
        raise ValueError(f"mean and std must both be given, or neither, got {mean} and {std}")
    if statistics is not None and mean is not None:
        raise ValueError("statistics must be left out where mean is given, got both")
    if mean is not None and std is not None:
        return Normalisation(_by_channel("mean", mean, channels), _by_channel("std", std, channels), scale)
    beside = [folder / f"{STATISTICS}{suffix}" for suffix in STATISTICS_SUFFIXES]
    found = [Path(statistics)] if statistics is not None else [path for path in beside if path.is_file()]
    if not found:
        return Normalisation((0.0,) * channels, (1.0,) * channels, scale)
    try:
        means, stds = read_statistics(found[0])
        return Normalisation(_by_channel("mean", means, channels), _by_channel("std", stds, channels), scale)
    except ValueError as error:
        raise ValueError(f"statistics {found[0]}: {error}") from error


def _by_channel(name: str, values: float | Sequence[float], channels: int) -> tuple[float, ...]:
    if isinstance(values, (int, float)):
        return (float(values),) * channels
    if len(values) != channels:
        raise ValueError(f"{name} must hold {channels} numbers, one a channel of the latents, got {len(values)}")
    return tuple(map(float, values))
