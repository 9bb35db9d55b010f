"""Which shape each image gets, and which pairs cannot be used, found before anything is encoded."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rcgm.data.image_files import image_size
from rcgm.encoding.buckets import Buckets
from rcgm.encoding.sources import BadPairError, PairSource, Reason

__all__ = ["LeftOut", "Shape", "check_limit", "share_of", "survey"]

Shape = tuple[int, int]
"""Height and width of an image, in pixels."""
NAMES_IN_MESSAGE, AT_ONCE = 5, 1000


@dataclass(frozen=True)
class LeftOut:
    """A pair that is left out: its number in the source, why, and what was found."""

    index: int
    reason: Reason
    detail: str

    def named(self, source: PairSource) -> str:
        """For messages: the name of the pair, and why it is left out."""
        more = f" ({self.detail})" if self.detail and self.detail != self.reason.value else ""
        return f"{source.name(self.index)}: {self.reason.value}{more}"

    @property
    def is_bad(self) -> bool:
        """Whether it counts among those of which there may be few; images may be small without being broken."""
        return self.reason is not Reason.IMAGE_SMALL


def survey(
    source: PairSource, buckets: Buckets, indices: range, on_pairs: Callable[[int], None] | None = None
) -> list[Shape | LeftOut]:
    """Read the captions of these pairs, and the beginnings of their images.

    Args:
        source: of the pairs.
        buckets: shapes.
        indices: of the pairs.
        on_pairs: called with a number of pairs that have been read.

    Returns:
        For each the shape of its image, or why it is left out.
    """

    def look(index: int) -> Shape | LeftOut:
        try:
            source.caption(index)
            height, width = _size(source, index)
        except BadPairError as error:
            return LeftOut(index, error.reason, error.detail)
        shape = buckets.shape_of(height, width)
        if shape is None:
            return LeftOut(index, Reason.IMAGE_SMALL, f"{height} x {width} pixels")
        return shape

    found: list[Shape | LeftOut] = []
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        for start in range(0, len(indices), AT_ONCE):  # else a task for each pair waits in memory
            part = indices[start : start + AT_ONCE]
            found += pool.map(look, part)
            if on_pairs is not None:
                on_pairs(len(part))
    return found


def share_of(count: int, rank: int, world_size: int) -> range:
    """The numbers of this rank: contiguous, of those up to ``count``."""
    return range(count * rank // world_size, count * (rank + 1) // world_size)


def check_limit(source: PairSource, left_out: Sequence[LeftOut], max_bad: float) -> None:
    """Raise if more pairs are bad than a part ``max_bad`` of all.

    Raises:
        ValueError: with the names of the first ones.
    """
    bad = [one for one in left_out if one.is_bad]
    if len(bad) <= max_bad * len(source):
        return
    listed = [one.named(source) for one in bad[:NAMES_IN_MESSAGE]]
    more = [f"... and {len(bad) - NAMES_IN_MESSAGE:,} more"] if len(bad) > NAMES_IN_MESSAGE else []
    raise ValueError(
        f"{len(bad):,} of {len(source):,} pairs cannot be used, and max_bad {max_bad:g} allows "
        f"{int(max_bad * len(source)):,}: repair or remove them, or make it larger\n  " + "\n  ".join(listed + more)
    )


def _size(source: PairSource, index: int) -> tuple[int, int]:
    try:
        return image_size(source.image(index), source.name(index))
    except BadPairError:
        raise
    except (OSError, ValueError) as error:
        raise BadPairError(Reason.IMAGE_BROKEN, str(error)) from error
