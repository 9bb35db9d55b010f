"""Pictures of images: sets of samples one below the other, a column for each sample."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from rcgm.plots.style import pixel_axes, pixel_figure, text_at

SMALLEST, LARGEST = 48, 128
"""Pixels of the side of an image as it is drawn; smaller and larger ones are scaled."""
WIDTH = 1100
"""Pixels of a row, at most."""
GAP, BLOCK_GAP, MARGIN = 4, 12, 12
LINE, LETTER = 20, 8
"""Pixels of a line of text, and of a letter, at most."""
CAPTION_LINES, CAPTION_LINE, CAPTION_LETTER = 3, 12, 6
"""Lines of a caption, at most, and their size in pixels; pictures with captions have sides of ``LARGEST``."""


def enlarged(images: Tensor, value_range: tuple[float, float], smallest: int = SMALLEST) -> np.ndarray:
    """Images as they are drawn: small ones are enlarged, and large ones reduced, with a cubic filter.

    Args:
        images: ``[N, C, H, W]``, floating, C of 1 or 3; further channels (of latents) are left out.
        value_range: values shown as black and as white; values outside are clamped.
        smallest: pixels of the longer side, at least.

    Returns:
        uint8 ``[N, h, w, 3]``, of which the longer side has ``smallest`` to ``LARGEST`` pixels.
    """
    low, high = value_range
    pixels = ((images.detach().float().cpu() - low) / (high - low)).clamp(0.0, 1.0).mul(255.0).round().byte()
    pixels = pixels[:, :3] if pixels.shape[1] >= 3 else pixels[:, :1].expand(-1, 3, -1, -1)
    cells = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    height, width = cells.shape[1:3]
    longer = max(height, width)
    scale = min(max(longer, smallest), LARGEST) / longer
    if scale == 1:
        return cells
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Each image by itself: scaled together, neighbours would run into one another.
    return np.stack([np.asarray(Image.fromarray(cell).resize(size, Image.Resampling.BICUBIC)) for cell in cells])


def image_rows(cells: np.ndarray, columns: int) -> list[np.ndarray]:
    """Images ``[N, h, w, 3]`` as rows of ``columns``, each one picture; gaps and missing cells are white."""
    height, width = cells.shape[1:3]
    rows = []
    for start in range(0, len(cells), columns):
        row = np.full((height, columns * (width + GAP) - GAP, 3), 255, dtype=np.uint8)
        for column, cell in enumerate(cells[start : start + columns]):
            row[:, column * (width + GAP) : column * (width + GAP) + width] = cell
        rows.append(row)
    return rows


def columns_for(cell_width: int, count: int, labels: Sequence[int] | None) -> tuple[int, bool]:
    """Images in a row, and whether each column holds one class alone.

    Classes that come in turn begin each row anew, where a row has room for all of them.
    """
    room = max(1, min(count, (WIDTH + GAP) // (cell_width + GAP)))
    if labels is None:
        return room, False
    period = next(p for p in range(1, count + 1) if all(labels[i] == labels[i % p] for i in range(count)))
    if period > room:
        return room, False
    return room - room % period, True


def grid_panels(
    samples: Mapping[str, Tensor],
    labels: Tensor | None,
    value_range: tuple[float, float] | None,
    class_names: Sequence[str],
    title: str,
    captions: Sequence[str] = (),
) -> Figure:
    """See :func:`rcgm.plots.sample_panels`."""
    if value_range is None:
        shown = [tensor[:, :3] for tensor in samples.values()]
        value_range = (
            min(float(tensor.min()) for tensor in shown),
            max(float(tensor.max()) for tensor in shown) + 1e-6,
        )
    smallest = LARGEST if captions else SMALLEST
    blocks = {name: enlarged(tensor, value_range, smallest) for name, tensor in samples.items()}
    cell_height, cell_width = next(iter(blocks.values())).shape[1:3]
    known = None if labels is None else labels.tolist()
    columns, by_class = columns_for(cell_width, max(len(cells) for cells in blocks.values()), known)
    rows = {name: image_rows(cells, columns) for name, cells in blocks.items()}

    left = MARGIN + LETTER * max(map(len, rows)) + MARGIN
    top = MARGIN + (LINE + 4 if title else 0) + (LINE if by_class else 0)
    pitch = cell_height + GAP + (CAPTION_LINES * CAPTION_LINE if captions else 0)
    heights = [len(block) * pitch - GAP for block in rows.values()]
    width = left + columns * (cell_width + GAP) - GAP + MARGIN
    figure = pixel_figure(width, top + sum(heights) + BLOCK_GAP * (len(heights) - 1) + MARGIN)
    if title:
        text_at(figure, left, MARGIN, title, fontsize=9, va="top")
    if by_class:
        for column in range(columns):
            name = class_names[known[column]] if class_names else str(known[column])
            centre = left + column * (cell_width + GAP) + cell_width / 2
            text_at(figure, centre, top - 5, _fitting(name, cell_width), ha="center", va="bottom", fontsize=7.5)
    for (name, block), height in zip(rows.items(), heights, strict=True):
        text_at(figure, left - MARGIN, top + height / 2, name, ha="right", va="center")
        for index, row in enumerate(block):
            pixel_axes(figure, row, left, top + index * pitch)
            for column, caption in enumerate(captions[index * columns : (index + 1) * columns]):
                place = (left + column * (cell_width + GAP), top + index * pitch + cell_height + 2)
                text_at(figure, *place, _wrapped(caption, cell_width), fontsize=5.5, va="top", linespacing=1.0)
        top += height + BLOCK_GAP
    return figure


def _fitting(name: str, width: int) -> str:
    letters = max(1, width // LETTER)
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def _wrapped(caption: str, width: int) -> str:
    # a caption may hold anything: what cannot be drawn becomes a question mark
    plain = "".join(letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in caption)
    letters = max(4, width // CAPTION_LETTER)
    return "\n".join(textwrap.wrap(plain, letters, max_lines=CAPTION_LINES, placeholder="…"))
