"""Shapes of images: to which of a few shapes an image is resized and cropped."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from rcgm.checks import one_of, positive_float, whole_number

__all__ = ["BucketKind", "Buckets"]

BucketKind = Literal["aspect", "square", "native"]


@dataclass(frozen=True)
class Buckets:
    """Shapes whose sides are multiples of a number, and which of them an image gets.

    - ``square``: one shape, ``size`` by ``size``.
    - ``aspect``: shapes of about ``size * size`` pixels, from ``largest_ratio`` times as high as wide to as many times
      as wide as high; an image gets the one whose ratio of sides is nearest to its own (in logarithms).
    - ``native``: an image keeps its resolution, rounded down to the multiple; a larger one than ``size * size`` pixels
      is made smaller.

    An image is then resized to cover the shape and cropped around its centre.

    Args:
        size: see above; a multiple of ``multiple``.
        multiple: of height and width.
        kind: see above.
        largest_ratio: of the longer side to the shorter one, for ``aspect``.
        max_upscale: factor by which an image may be enlarged; smaller images get no shape.

    Raises:
        TypeError, ValueError: an argument outside of the above.
    """

    size: int
    multiple: int
    kind: BucketKind = "aspect"
    largest_ratio: float = 2.0
    max_upscale: float = 1.0

    def __post_init__(self) -> None:
        whole_number("size", self.size, 1)
        whole_number("multiple", self.multiple, 1)
        one_of("buckets", self.kind, get_args(BucketKind))
        if self.size % self.multiple:
            raise ValueError(
                f"size must be a multiple of {self.multiple}, of which the sides of images must be, got {self.size}"
            )
        if positive_float("largest_ratio", self.largest_ratio) < 1:
            raise ValueError(f"largest_ratio must be at least 1, got {self.largest_ratio}")
        if positive_float("max_upscale", self.max_upscale) < 1:
            raise ValueError(f"max_upscale must be at least 1, got {self.max_upscale}")

    @cached_property
    def shapes(self) -> list[tuple[int, int]]:
        """Heights and widths, the widest first; none are fixed for ``native``."""
        if self.kind == "native":
            return []
        if self.kind == "square":
            return [(self.size, self.size)]
        units = self.size // self.multiple
        found = set()
        for height in range(1, units + 1):
            width = round(units * units / height)
            if width <= self.largest_ratio * height:
                found |= {(height, width), (width, height)}
        return [(height * self.multiple, width * self.multiple) for height, width in sorted(found)]

    def shape_of(self, height: int, width: int) -> tuple[int, int] | None:
        """Height and width for an image of ``height`` by ``width`` pixels; None where it is too small."""
        if self.kind == "native":
            return self._native(height, width)
        ratio = math.log(height / width)
        shape = min(self.shapes, key=lambda shape: (abs(math.log(shape[0] / shape[1]) - ratio), shape))
        needed = max(shape[0] / height, shape[1] / width)
        return None if needed > self.max_upscale else shape

    def _native(self, height: int, width: int) -> tuple[int, int] | None:
        # epsilon: an image of exactly the largest area must not lose a multiple to rounding
        scale = min(1.0, self.size / math.sqrt(height * width)) * (1 + 1e-12)
        rows, columns = (int(side * scale / self.multiple) for side in (height, width))
        return (rows * self.multiple, columns * self.multiple) if rows and columns else None
