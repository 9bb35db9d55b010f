"""One shard of encoded pairs, mapped into memory and read by rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcgm.data.latents.store import FLOATING, require_latents
from rcgm.data.rows import Rows, open_arrays
from rcgm.data.text.layout import CONDITIONS, LATENTS, MASKS, POOLED, TEXT, TEXTS, captions_path, offsets_of
from rcgm.data.text.manifest import ShardEntry

__all__ = ["PairShard"]

LARGEST_TEXT = 2**28
"""Numbers in the text states of a caption."""
KNOWN = {LATENTS, *CONDITIONS, *map(offsets_of, TEXTS)}


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
        self._entry = entry
        arrays = open_arrays(path)
        names = set(arrays)
        if {LATENTS, TEXT} - names or names - KNOWN:
            raise ValueError(
                f"{path} must hold {LATENTS} and {TEXT}, and may hold {sorted(KNOWN)}, got {sorted(names)}"
            )
        for text, mask in TEXTS.items():
            offsets = offsets_of(text)
            if (mask in names) != (offsets in names) or (mask in names and text not in names):
                raise ValueError(f"{path} must hold {mask} together with {text} and {offsets}, got {sorted(names)}")
        self._arrays = arrays
        found = require_latents(arrays[LATENTS].shape, arrays[LATENTS].dtype, self._name(LATENTS), axes=4)
        if (arrays[LATENTS].shape[0], found) != (self.samples, self.shape):
            raise ValueError(
                f"{self._name(LATENTS)} must be {[self.samples, *self.shape]}, as the manifest says, got "
                f"{list(arrays[LATENTS].shape)}"
            )
        self._offsets: dict[str, Tensor] = {}
        self.conditions: dict[str, tuple[int, ...]] = {}
        for text, mask in TEXTS.items():
            if mask in names:
                length = self._require(mask, "[N, L]", ("bool",))[1]
                width = self._require(text, "[T, C]", FLOATING)[1]
                if length * width > LARGEST_TEXT:  # of a small file a reader would make a large array
                    raise ValueError(
                        f"{self._name(text)} must have at most {LARGEST_TEXT} numbers a caption, got {length} x {width}"
                    )
                self.conditions[text] = (length, width)
                self.conditions[mask] = (length,)
                self._offsets[text] = self._checked_offsets(text, length)
            elif text in names:
                self.conditions[text] = self._require(text, "[N, L, C]", FLOATING)[1:]
        if POOLED in names:
            self.conditions[POOLED] = self._require(POOLED, "[N, D]", FLOATING)[1:]

    def __reduce__(self) -> tuple[Any, ...]:
        # mapped arrays pickle one by one; a worker process maps the file once
        return PairShard, (self.path, self._entry)

    def latents(self, rows: Tensor) -> Tensor:
        """float32 ``[B, C, H, W]`` at the int64 ``rows`` ``[B]``."""
        return self._finite(LATENTS, self._arrays[LATENTS].read(rows), rows)

    def condition(self, rows: Tensor) -> dict[str, Tensor]:
        """Float32 text states ``[B, L, C]``, 0 where the mask, bool ``[B, L]``, is false; float32 pooled ``[B, D]``."""
        cond: dict[str, Tensor] = {}
        for name in self.conditions:
            if name in self._offsets:
                mask = self._arrays[TEXTS[name]].read(rows).bool()
                cond |= {name: self._finite(name, self._states(name, mask, rows), rows), TEXTS[name]: mask}
            elif name not in MASKS:
                cond[name] = self._finite(name, self._arrays[name].read(rows), rows)
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

    def _states(self, text: str, mask: Tensor, rows: Tensor) -> Tensor:
        """States of the full length, from those that are stored."""
        starts, ends = self._offsets[text][rows], self._offsets[text][rows + 1]
        unlike = mask.sum(1) != ends - starts
        if unlike.any():
            row = int(rows[int(unlike.nonzero()[0])])
            raise ValueError(
                f"{self._name(TEXTS[text])} does not fit {offsets_of(text)!r} in row {row}: the file is damaged"
            )
        states = torch.zeros(*mask.shape, self.conditions[text][1])
        if mask.any():
            ranges = zip(starts.tolist(), ends.tolist(), strict=True)
            states[mask] = self._arrays[text].read(torch.cat([torch.arange(start, end) for start, end in ranges]))
        return states

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

    def _checked_offsets(self, text: str, length: int) -> Tensor:
        name = offsets_of(text)
        array, total = self._arrays[name], self._arrays[text].shape[0]
        if array.shape != (self.samples + 1,) or array.dtype != "int64":
            raise ValueError(
                f"{self._name(name)} must be int64 [{self.samples + 1}], got {array.dtype} {list(array.shape)}"
            )
        offsets = array.read(torch.arange(self.samples + 1))
        lengths = offsets.diff()
        if int(offsets[0]) != 0 or int(offsets[-1]) != total or bool((lengths < 0).any() or (lengths > length).any()):
            raise ValueError(
                f"{self._name(name)} must rise from 0 to {total}, the rows of {text!r}, by at most {length} a sample: "
                "the file is damaged"
            )
        return offsets

    def _name(self, name: str) -> str:
        return f"{name!r} of {self.path}"
