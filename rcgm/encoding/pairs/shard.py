"""One shard of encoded pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rcgm.data.text.layout import LATENTS, MASKS, TEXTS, captions_path, packed_text
from rcgm.encoding.pairs.plan import PairPlan
from rcgm.encoding.pairs.reading import Pair
from rcgm.encoding.pairs.survey import LeftOut
from rcgm.encoding.record import Record, shard_path, write_shard
from rcgm.encoding.sources import Reason
from rcgm.files import write_atomically

__all__ = ["PairShardWriter"]


class PairShardWriter:
    """A shard that is being filled, batch by batch.

    Args:
        plan: that it belongs to.
        number: of the shard.
        on_left_out: called with pairs that turn out to be unusable.
    """

    def __init__(self, plan: PairPlan, number: int, on_left_out: Callable[[list[LeftOut]], None]) -> None:
        self._plan = plan
        self._on_left_out = on_left_out
        self._number = number
        self._waiting = len(plan.members(number))
        self._stamp = plan.stamp(number)  # before any is read
        self._parts: list[dict[str, Tensor]] = []
        self._captions: list[str] = []
        self._images: list[str] = []
        self._cut: list[int] = []
        self._left_out: list[LeftOut] = []

    def add(self, pairs: Sequence[Pair | LeftOut]) -> bool:
        """Encode the next pairs; returns whether the shard is full."""
        self._waiting -= len(pairs)
        known = len(self._left_out)
        self._left_out += [pair for pair in pairs if isinstance(pair, LeftOut)]
        whole = [pair for pair in pairs if isinstance(pair, Pair)]
        if whole:
            self._encode(whole)
        if len(self._left_out) > known:
            self._on_left_out(self._left_out[known:])
        return self._waiting == 0

    def write(self) -> Record:
        """Write the shard, its captions, and then its record, each in one step. A shard may hold no pair at all."""
        tensors: dict[str, Tensor] = {}
        if self._parts:
            joined = {name: torch.cat([part[name] for part in self._parts]) for name in self._parts[0]}
            # autoencoders may give them with the channels last in memory
            tensors = {LATENTS: joined.pop(LATENTS).contiguous(), **packed_text(joined)}
        path = captions_path(shard_path(self._plan, self._number))
        content = {"captions": self._captions, "images": self._images}
        write_atomically(path, json.dumps(content) + "\n")
        return write_shard(
            self._plan,
            self._number,
            tensors,
            len(self._captions),
            stamp=self._stamp,
            left_out=[[one.index, one.reason.name, one.detail] for one in self._left_out],
            cut=self._cut,
        )

    def _encode(self, pairs: list[Pair]) -> None:
        encoder = self._plan.encoder
        captions = [pair.caption for pair in pairs]
        part = {LATENTS: encoder.images(torch.stack([pair.image for pair in pairs])), **encoder.captions(captions)}
        for name, tensor in part.items():
            if name not in MASKS:
                dtype = self._plan.dtype if name == LATENTS else self._plan.text_dtype
                part[name] = tensor.to(getattr(torch, dtype))
        finite = torch.ones(len(pairs), dtype=torch.bool)
        for name, tensor in part.items():
            # what the mask leaves out may be anything, and is not stored
            mask = part.get(TEXTS.get(name, ""))
            known = tensor if mask is None else tensor.masked_fill(~mask[..., None], 0)
            finite &= torch.isfinite(known.flatten(1)).all(1)
        long = encoder.too_long(captions)
        for pair, good, cut in zip(pairs, finite.tolist(), long, strict=True):
            if not good:
                self._left_out.append(LeftOut(pair.index, Reason.NOT_FINITE, f"in {self._plan.dtype}"))
                continue
            self._captions.append(pair.caption)
            self._images.append(self._plan.source.name(pair.index))
            if cut:
                self._cut.append(pair.index)
        if finite.any():
            self._parts.append({name: tensor[finite] for name, tensor in part.items()})
