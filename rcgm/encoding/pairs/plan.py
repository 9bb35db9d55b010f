"""Which pairs are to be encoded, how, and into which shards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from rcgm.checks import one_of, whole_number
from rcgm.data.image_files import WHITE, Colour
from rcgm.data.text.layout import SHARD_STEM
from rcgm.encoding.buckets import Buckets
from rcgm.encoding.pairs.encoder import PairEncoder
from rcgm.encoding.pairs.survey import LeftOut, Shape, check_limit
from rcgm.encoding.plan import StorageDtype
from rcgm.encoding.record import hash_of_json
from rcgm.encoding.sources import PairSource

__all__ = ["PairPlan"]


@dataclass(frozen=True)
class PairPlan:
    """Images with captions that are to become shards of latents and text states, one shape a shard.

    Args:
        source: of the pairs.
        output: folder of the shards.
        encoder: of images and captions.
        buckets: shapes of the images.
        surveyed: for each pair the shape of its image, or why it is left out.
        dtype: of the stored latents.
        text_dtype: of the stored text states and pooled vectors.
        shard_size: pairs a shard; the last one of a shape has fewer.
        max_bad: part of the pairs that may be unusable, from 0 to 1.
        background: red, green and blue that transparent images are put on.

    Raises:
        TypeError: ``shard_size`` is no integer.
        ValueError: an argument outside of the above; too many pairs are unusable, or none is left.
    """

    source: PairSource
    output: Path
    encoder: PairEncoder
    buckets: Buckets
    surveyed: Sequence[Shape | LeftOut]
    dtype: StorageDtype = "float32"
    text_dtype: StorageDtype = "bfloat16"
    shard_size: int = 1000
    max_bad: float = 0.01
    background: Colour = WHITE

    def __post_init__(self) -> None:
        whole_number("shard_size", self.shard_size, 1)
        for name, value in (("dtype", self.dtype), ("text_dtype", self.text_dtype)):
            one_of(name, value, get_args(StorageDtype))
        if not (math.isfinite(self.max_bad) and 0 <= self.max_bad <= 1):
            raise ValueError(f"max_bad must be from 0 to 1, got {self.max_bad}")
        check_limit(self.source, self.left_out, self.max_bad)
        if not self._members:
            small = len(self.left_out)
            raise ValueError(
                f"no pair is left of {len(self.source):,}: {small:,} are left out, most of them because "
                f"{self.left_out[0].reason.value}; choose a smaller size or a larger max_upscale for small images"
            )

    @cached_property
    def left_out(self) -> list[LeftOut]:
        """Pairs that are not encoded at all."""
        return [found for found in self.surveyed if isinstance(found, LeftOut)]

    @cached_property
    def counts(self) -> dict[Shape, int]:
        """Pairs of each shape, in the order of the shards."""
        return {shape: len(members) for shape, members in self._by_shape.items()}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the contents of the shards follow from."""
        names = [self.source.name(index) for index in range(len(self.source))]
        return {
            "encoder": self.encoder.settings(),
            "buckets": asdict(self.buckets),
            "dtype": self.dtype,
            "text_dtype": self.text_dtype,
            "shard_size": self.shard_size,
            "background": list(self.background),
            "pairs_sha256": hash_of_json(names),
        }

    @cached_property
    def fingerprint(self) -> str:
        """See `ShardPlan`."""
        return hash_of_json(self.settings)

    @property
    def stem(self) -> str:
        """See `ShardPlan`."""
        return SHARD_STEM

    @property
    def shards(self) -> int:
        """Their number."""
        return len(self._members)

    def members(self, shard: int) -> list[int]:
        """Numbers in the source of the pairs of a shard."""
        return self._members[shard]

    def shape(self, shard: int) -> Shape:
        """Height and width of its images."""
        return self.surveyed[self._members[shard][0]]  # type: ignore[return-value]

    def stamp(self, shard: int) -> str:
        """A hash of the members of a shard, of the shape, and of what tells that they were replaced."""
        members = self.members(shard)
        return hash_of_json([members, self.shape(shard), [self.source.stamp(index) for index in members]])

    @cached_property
    def _by_shape(self) -> dict[Shape, list[int]]:
        found: dict[Shape, list[int]] = {}
        for index, shape in enumerate(self.surveyed):
            if not isinstance(shape, LeftOut):
                found.setdefault(shape, []).append(index)
        return dict(sorted(found.items()))

    @cached_property
    def _members(self) -> list[list[int]]:
        return [
            members[start : start + self.shard_size]
            for members in self._by_shape.values()
            for start in range(0, len(members), self.shard_size)
        ]
