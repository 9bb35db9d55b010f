"""Decoding one image file that may come from anywhere."""

from __future__ import annotations

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

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)


def read_image(path: str, mode: str, background: Colour) -> Image.Image:
    """Decode a file, turn it as the camera says and put it on ``background`` where it is transparent.

    Args:
        path: of the file.
        mode: "RGB" or "L", of the result.
        background: red, green and blue, 0 to 255.

    Raises:
        ValueError: the file cannot be decoded, is of another format, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path, formats=FORMATS) as file:
            if file.mode.startswith(("I", "F")):
                # Pillow's conversion of these to 8 bits clips every value above 255 to white, without a word.
                raise ValueError(f"its pixel format is {file.mode!r}; 8 bits a channel are needed")
            file.load()
            image = _on_background(file, mode, background)
            transposition = TRANSPOSITIONS.get(_orientation(file))
    except UnidentifiedImageError as error:
        raise ValueError(f"cannot read the image {path}: it is damaged or none of {', '.join(FORMATS)}") from error
    # Decoders raise whatever they stumble over (OSError, SyntaxError, struct.error, DecompressionBombError, ...).
    except Exception as error:
        raise ValueError(f"cannot read the image {path}: {error}") from error
    return image if transposition is None else image.transpose(transposition)


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
