"""A data set of encoded images and captions."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import Dataset

from rcgm.data.fingerprint import evenly_spaced, hash_of, hash_of_tensors
from rcgm.data.info import DataInfo, TextInfo
from rcgm.data.text.layout import LATENTS, MASKS, NULL_FILE, check_conditions, shape_text
from rcgm.data.text.manifest import read_manifest
from rcgm.data.text.shard import PairShard

CONTENT_SAMPLES = 64


class EncodedPairs(Dataset):
    """Latents of images, and the text states of their captions, as ``rcgm encode --text`` writes them.

    ``dataset[i]`` is ``(float32 [C, H, W], cond)``. ``cond`` holds the tensors that the network takes: ``text``
    ``[L, C]``, and where the text encoders give them ``mask`` ``[L]``, bool, and ``pooled`` ``[D]``; ``text_2`` and
    ``mask_2`` of a second text encoder. Text states are 0 where the mask is false. Latents are normalised already.

    Images may have several shapes. Samples of one shape follow one another; ``buckets`` says where, and the batch
    stream puts samples of one shape into a batch.

    Args:
        path: the folder.

    Attributes:
        info: its ``shape`` is the one that most samples have.
        buckets: the indices of the samples of each shape.
        null_cond: conditions of the empty caption, with a leading dimension of 1.
        notes: shapes and their samples, and what was left out when the pairs were encoded.

    Raises:
        ValueError: a file is missing or damaged, or holds an array of another shape or dtype than the others or the
            manifest. When samples are read: values that are not finite.
    """

    in_memory = False

    def __init__(self, path: str | os.PathLike[str]) -> None:
        folder = Path(path)
        manifest = read_manifest(folder)
        # stable: shards of one shape are put together, in the order of the manifest otherwise
        shapes = list(dict.fromkeys(entry.shape for entry in manifest.shards))
        entries = sorted(manifest.shards, key=lambda entry: shapes.index(entry.shape))
        self._shards = [PairShard(folder / entry.file, entry) for entry in entries]
        self._ends = list(itertools.accumulate(shard.samples for shard in self._shards))
        first = self._shards[0]
        for shard in self._shards:
            if shard.conditions != first.conditions:
                raise ValueError(
                    f"{shard.path} holds conditions {shard.conditions} and {first.path} {first.conditions}: encode the "
                    "pairs again"
                )
        counts = Counter[tuple[int, int, int]]()
        for shard in self._shards:
            counts[shard.shape] += shard.samples
        ends = list(itertools.accumulate(counts[shape] for shape in shapes))
        self.buckets = [range(end - counts[shape], end) for shape, end in zip(shapes, ends, strict=True)]
        self.null_cond = _null_condition(folder / NULL_FILE, first.conditions)
        self.info = DataInfo(
            shape=counts.most_common(1)[0][0],
            num_classes=None,
            kind="images",
            text=TextInfo(manifest.family, manifest.pipeline, first.conditions, manifest.encoder, manifest.length),
        )
        self.notes = [
            "shapes: " + "; ".join(f"{shape_text(shape)}: {count:,} samples" for shape, count in counts.items()),
            *(f"left out when encoded: {count:,}, {reason}" for reason, count in manifest.left_out.items() if count),
            *([f"captions cut to what the encoder takes: {manifest.truncated:,}"] if manifest.truncated else []),
        ]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of a data set of {len(self)} samples")
        x, cond = self.take(torch.tensor([index % len(self)]))
        return x[0], {name: tensor[0] for name, tensor in cond.items()}

    def take(self, indices: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Latents ``[B, C, H, W]`` and conditions ``[B, ...]`` at int64 ``indices`` ``[B]``, all of one bucket."""
        shapes = {self._shards[number].shape for number in self._places(indices)[0].unique().tolist()}
        if len(shapes) != 1:
            raise ValueError(f"indices must be of samples of one shape, got {sorted(shapes)}")
        pairs = self._read(indices, lambda shard, rows: {LATENTS: shard.latents(rows), **shard.condition(rows)})
        return pairs.pop(LATENTS), pairs

    def conditions(self, indices: Tensor) -> dict[str, Tensor]:
        """The conditions ``[B, ...]`` at the int64 ``indices`` ``[B]``."""
        return self._read(indices, PairShard.condition)

    def captions(self, indices: Tensor) -> list[str]:
        """The captions at the int64 ``indices`` ``[B]``.

        Raises:
            ValueError: their file is missing or damaged.
        """
        shards, rows = self._places(indices)
        known = {number: self._shards[number].captions() for number in shards.unique().tolist()}
        return [known[number][row] for number, row in zip(shards.tolist(), rows.tolist(), strict=True)]

    def fingerprint(self) -> dict[str, Any]:
        """See `rcgm.data.data_fingerprint`: the shapes, and the tensors of samples, evenly spaced."""
        shapes = [[shard.samples, *shard.shape] for shard in self._shards]
        samples = (self[index] for index in evenly_spaced(len(self), CONTENT_SAMPLES))
        tensors = itertools.chain.from_iterable((x, *(cond[name] for name in sorted(cond))) for x, cond in samples)
        return {
            "conditions": {name: list(shape) for name, shape in self.info.text.tensors.items()},
            "shapes": hash_of([json.dumps(shapes).encode()]),
            "content": hash_of_tensors(tensors),
            "null": hash_of_tensors(self.null_cond[name] for name in sorted(self.null_cond)),
        }

    def _places(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The shard of each sample, and its row there."""
        ends = torch.tensor([0, *self._ends])
        shards = torch.bucketize(indices, ends[1:], right=True)
        return shards, indices - ends[shards]

    def _read(self, indices: Tensor, read: Callable[[PairShard, Tensor], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What ``read`` gives for the rows of each shard, in the order of ``indices``."""
        shards, rows = self._places(indices)
        together: dict[str, Tensor] = {}
        for number in shards.unique().tolist():
            here = (shards == number).nonzero().flatten()
            for name, tensor in read(self._shards[number], rows[here]).items():
                if name not in together:
                    together[name] = tensor.new_empty(len(indices), *tensor.shape[1:])
                together[name][here] = tensor
        return together


def _null_condition(path: Path, conditions: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The conditions of the empty caption, in the shapes and formats of those of the samples."""
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot read the conditions of the empty caption from {path}: {error}") from error
    check_conditions(stored, 1, str(path))
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in stored.items()}
    if shapes != conditions:
        raise ValueError(f"{path} must hold {conditions}, as the shards do, got {shapes}: encode the pairs again")
    # in the order of the samples' conditions
    null = {name: stored[name].bool() if name in MASKS else stored[name].float() for name in conditions}
    if not all(bool(torch.isfinite(tensor).all()) for tensor in null.values()):
        raise ValueError(f"{path} holds values that are not finite: encode the pairs again")
    return null
