"""One shard of encoded pairs, mapped into memory and read by rows."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from rcgm.data.latents.store import FLOATING, require_latents
from rcgm.data.rows import Rows, array_names, open_array
from rcgm.data.text.layout import LATENTS, MASK, OFFSETS, POOLED, TEXT, captions_path
from rcgm.data.text.manifest import ShardEntry

__all__ = ["PairShard"]

REQUIRED, TOGETHER, OPTIONAL = {LATENTS, TEXT}, {MASK, OFFSETS}, {POOLED}


class PairShard:
    """The pairs of one file.

    Args:
        path: of the file.
        entry: what the manifest says of it.

    Attributes:
        conditions: shape of each tensor of a condition, without the batch.

    Raises:
        ValueError: an array is missing, damaged, or of a shape or dtype that does not go with the others or with the
            manifest. When samples are read: values that are not finite, or a mask that does not fit the text.
    """

    def __init__(self, path: Path, entry: ShardEntry) -> None:
        self.path = path
        self.samples, self.shape = entry.samples, entry.shape
        names = set(array_names(path))
        if not names >= REQUIRED or names - REQUIRED - TOGETHER - OPTIONAL or len(names & TOGETHER) == 1:
            raise ValueError(
                f"{path} must hold {LATENTS} and {TEXT}, may hold {POOLED}, and {MASK} together with {OFFSETS}, "
                f"got {sorted(names)}"
            )
        arrays = {name: open_array(path, name) for name in sorted(names)}
        self._arrays = arrays
        found = require_latents(arrays[LATENTS].shape, arrays[LATENTS].dtype, self._name(LATENTS), axes=4)
        if (arrays[LATENTS].shape[0], found) != (self.samples, self.shape):
            raise ValueError(
                f"{self._name(LATENTS)} must be {[self.samples, *self.shape]}, as the manifest says, got "
                f"{list(arrays[LATENTS].shape)}"
            )
        self._offsets: Tensor | None = None
        if MASK in names:
            length = self._require(MASK, "[N, L]", ("bool",))[1]
            width = self._require(TEXT, "[T, C]", FLOATING)[1]
            self._offsets = self._checked_offsets(length)
        else:
            _, length, width = self._require(TEXT, "[N, L, C]", FLOATING)
        self.conditions: dict[str, tuple[int, ...]] = {TEXT: (length, width)}
        if MASK in names:
            self.conditions[MASK] = (length,)
        if POOLED in names:
            self.conditions[POOLED] = self._require(POOLED, "[N, D]", FLOATING)[1:]

    def latents(self, rows: Tensor) -> Tensor:
        """float32 ``[B, C, H, W]`` at the int64 ``rows`` ``[B]``."""
        return self._finite(LATENTS, self._arrays[LATENTS].read(rows), rows)

    def condition(self, rows: Tensor) -> dict[str, Tensor]:
        """Float32 text states ``[B, L, C]``, 0 where the mask, bool ``[B, L]``, is false; float32 pooled ``[B, D]``."""
        arrays = self._arrays
        cond = {TEXT: self._finite(TEXT, arrays[TEXT].read(rows), rows)} if self._offsets is None else self._text(rows)
        if POOLED in arrays:
            cond[POOLED] = self._finite(POOLED, arrays[POOLED].read(rows), rows)
        return cond

    def captions(self) -> list[str]:
        """The captions of all samples.

        Raises:
            ValueError: their file is missing or damaged, or has another number of them.
        """
        path = captions_path(self.path)
        try:
            captions = json.loads(path.read_text(encoding="utf-8"))["captions"]
            if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
                raise TypeError("it must be a list of texts")
            if len(captions) != self.samples:
                raise ValueError(f"it has {len(captions)} captions for {self.samples} samples")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f'cannot read "captions" from {path}: {error!r}') from error
        return captions

    def _text(self, rows: Tensor) -> dict[str, Tensor]:
        mask = self._arrays[MASK].read(rows).bool()
        starts, ends = self._offsets[rows], self._offsets[rows + 1]
        unlike = mask.sum(1) != ends - starts
        if unlike.any():
            row = int(rows[int(unlike.nonzero()[0])])
            raise ValueError(f"{self._name(MASK)} does not fit {OFFSETS!r} in row {row}: the file is damaged")
        text = torch.zeros(*mask.shape, self.conditions[TEXT][1])
        if mask.any():
            stored = torch.cat(
                [torch.arange(start, end) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
            )
            text[mask] = self._arrays[TEXT].read(stored)
        return {TEXT: self._finite(TEXT, text, rows), MASK: mask}

    def _finite(self, name: str, tensor: Tensor, rows: Tensor) -> Tensor:
        if not torch.isfinite(tensor).all():
            wrong = ~torch.isfinite(tensor).flatten(1).all(1)
            row = int(rows[int(wrong.nonzero()[0])])
            raise ValueError(
                f"{self._name(name)} holds values that are not finite in row {row}: encode the pairs again"
            )
        return tensor

    def _require(self, name: str, needed: str, dtypes: tuple[str, ...]) -> tuple[int, ...]:
        """The shape of an array, once it is as ``needed``, with a row for each of N samples, and of such a dtype."""
        array: Rows = self._arrays[name]
        by_sample = needed.startswith("[N")
        if (
            len(array.shape) != len(needed.split(","))
            or 0 in array.shape[1:]
            or (by_sample and array.shape[0] != self.samples)
        ):
            raise ValueError(
                f"{self._name(name)} must be {needed.replace('N', str(self.samples))}, got {list(array.shape)}"
            )
        if array.dtype not in dtypes:
            raise ValueError(f"{self._name(name)} must be {', '.join(dtypes)}, got {array.dtype}")
        return array.shape

    def _checked_offsets(self, length: int) -> Tensor:
        array, total = self._arrays[OFFSETS], self._arrays[TEXT].shape[0]
        if array.shape != (self.samples + 1,) or array.dtype != "int64":
            raise ValueError(
                f"{self._name(OFFSETS)} must be int64 [{self.samples + 1}], got {array.dtype} {list(array.shape)}"
            )
        offsets = array.read(torch.arange(self.samples + 1))
        lengths = offsets.diff()
        if int(offsets[0]) != 0 or int(offsets[-1]) != total or bool((lengths < 0).any() or (lengths > length).any()):
            raise ValueError(
                f"{self._name(OFFSETS)} must rise from 0 to {total}, the rows of {TEXT!r}, by at most {length} a "
                "sample: the file is damaged"
            )
        return offsets

    def _name(self, name: str) -> str:
        return f"{name!r} of {self.path}"
