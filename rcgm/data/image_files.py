"""Decoding one image file that may come from anywhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded, whatever a file is called. Others are not: Pillow hands PostScript to another program."""

ORIENTATION = 0x0112
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation of the EXIF standard."""
SIDEWAYS = {TRANSPOSITIONS[orientation] for orientation in (5, 6, 7, 8)}
"""Those that exchange height and width."""

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)


def read_image(source: str | BinaryIO, mode: str, background: Colour, name: str | None = None) -> Image.Image:
    """Decode a file, turn it as the camera says and put it on ``background`` where it is transparent.

    Args:
        source: path of the file, or its content as an open binary file.
        mode: "RGB" or "L", of the result.
        background: red, green and blue, 0 to 255.
        name: of the image, for messages; None for its path.

    Raises:
        ValueError: the file cannot be decoded, is of another format, or has more than 8 bits a channel.
    """
    with _opened(source, name) as file:
        file.load()
        image = _on_background(file, mode, background)
        transposition = TRANSPOSITIONS.get(_orientation(file))
        return image if transposition is None else image.transpose(transposition)


def image_size(source: str | BinaryIO, name: str | None = None) -> tuple[int, int]:
    """Height and width of an image that is turned as the camera says, from the beginning of its file alone.

    Args:
        source, name: see :func:`read_image`.

    Raises:
        ValueError: the beginning cannot be decoded, is of another format, or has more than 8 bits a channel.
    """
    with _opened(source, name) as file:
        width, height = file.size
        turned = TRANSPOSITIONS.get(_orientation(file)) in SIDEWAYS
        return (width, height) if turned else (height, width)


@contextlib.contextmanager
def _opened(source: str | BinaryIO, name: str | None) -> Iterator[Image.Image]:
    """The image, of which nothing but the beginning is read yet; errors of all kinds become a ``ValueError``."""
    name = str(source) if name is None else name
    try:
        with Image.open(source, formats=FORMATS) as file:
            if file.mode.startswith(("I", "F")):
                # Pillow's conversion of these to 8 bits clips every value above 255 to white, without a word.
                raise ValueError(f"its pixel format is {file.mode!r}; 8 bits a channel are needed")
            yield file
    except UnidentifiedImageError as error:
        raise ValueError(f"cannot read the image {name}: it is damaged or none of {', '.join(FORMATS)}") from error
    # Decoders raise whatever they stumble over (OSError, SyntaxError, struct.error, DecompressionBombError, ...).
    except Exception as error:
        raise ValueError(f"cannot read the image {name}: {error}") from error


def _on_background(image: Image.Image, mode: str, background: Colour) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert(mode)
    canvas = Image.new("RGBA", image.size, (*background, 255))
    canvas.alpha_composite(image.convert("RGBA"))
    return canvas.convert(mode)


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # damaged EXIF, which each decoder tells in its own way, beside pixels that are whole
        return None
