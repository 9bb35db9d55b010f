"""What all sources of images and captions offer."""

from __future__ import annotations

from enum import Enum
from typing import BinaryIO, Protocol

__all__ = ["LARGEST_CAPTION", "BadPairError", "PairSource", "Reason", "plain_caption"]

LARGEST_CAPTION = 1 << 20
"""Bytes of a file that holds a caption."""


class Reason(Enum):
    """Why a pair is left out."""

    IMAGE_MISSING = "the image is missing"
    IMAGE_BROKEN = "the image cannot be decoded"
    IMAGE_SMALL = "the image is too small"
    CAPTION_MISSING = "the caption is missing"
    CAPTION_EMPTY = "the caption is empty"
    CAPTION_BROKEN = "the caption cannot be read"
    ROW_BROKEN = "the row cannot be read"
    NOT_FINITE = "latents or text states are not finite"


class BadPairError(ValueError):
    """A pair that cannot be used, which is no reason to stop.

    Attributes:
        reason: of which kind.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(detail or reason.value)
        self.reason = reason
        self.detail = detail


class PairSource(Protocol):
    """Images with captions, read by number from any thread or process.

    Attributes:
        notes: sentences on what was passed over.
    """

    notes: list[str]

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Of a pair, within the source: independent of where the source lies."""
        ...

    def caption(self, index: int) -> str:
        """The caption, not empty, without spaces around it.

        Raises:
            BadPairError: there is none.
        """
        ...

    def image(self, index: int) -> str | BinaryIO:
        """The path of the image, or its content.

        Raises:
            BadPairError: there is none.
        """
        ...

    def stamp(self, index: int) -> list[int]:
        """Numbers that change when the pair is replaced: sizes and times of change."""
        ...


def plain_caption(text: object) -> str:
    """``text`` without spaces around it.

    Raises:
        BadPairError: it is no text, or empty.
    """
    if text is None:
        raise BadPairError(Reason.CAPTION_MISSING)
    if not isinstance(text, str):
        raise BadPairError(Reason.CAPTION_BROKEN, f"it must be a text, got {type(text).__name__}")
    if not text.strip():
        raise BadPairError(Reason.CAPTION_EMPTY)
    return text.strip()
