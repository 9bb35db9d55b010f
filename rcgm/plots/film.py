"""A run as a film: its preview pictures, one after the other, and some of them below one another."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from rcgm.files import write_atomically
from rcgm.plots.grids import GAP, LETTER, LINE, MARGIN
from rcgm.plots.style import PANEL, pixel_axes, pixel_figure, save_figure, text_at

FRAME_SECONDS, LAST_FRAME_SECONDS = 0.2, 2.0
COLOURS_OF_GIF, WIDTH_OF_GIF = 32, 800
"""They bound the size of the file: a row of 20 images takes about 13 KB a frame."""
STRIP_FRAMES = 6


def save_film(path: str | os.PathLike[str], previews: Mapping[int, Path]) -> Path | None:
    """Write preview pictures as an animated GIF, atomically.

    Args:
        path: of the GIF.
        previews: PNGs by training step. Those of another size than the last are left out: the settings have changed.

    Returns:
        The path; None without a film, which takes two pictures of one size.
    """
    frames = [_reduced(frame) for frame in _alike(previews).values()]
    if len(frames) < 2:
        return None
    # All frames have the palette of the last: colours do not flicker, and what does not change is not stored again.
    palette = frames[-1].quantize(COLOURS_OF_GIF)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [int(1000 * FRAME_SECONDS)] * (len(indexed) - 1) + [int(1000 * LAST_FRAME_SECONDS)]
    stream = io.BytesIO()
    indexed[0].save(stream, "gif", save_all=True, append_images=indexed[1:], duration=durations, loop=0, optimize=False)
    return write_atomically(path, stream.getvalue())


def save_film_strip(path: str | os.PathLike[str], previews: Mapping[int, Path]) -> Path | None:
    """Write the first row or plot of a few preview pictures, each with its training step, as one PNG, atomically.

    Steps are chosen evenly on a logarithmic scale, as samples change most at the beginning. Rows of images are
    placed below one another, plots side by side. Arguments and result as for :func:`save_film`.
    """
    frames = _alike(previews)
    if len(frames) < 2:
        return None
    wanted = np.geomspace(min(frames), max(frames), STRIP_FRAMES)
    steps = sorted({min(frames, key=lambda step: abs(np.log(step / goal))) for goal in wanted})
    panels = {step: np.asarray(frames[step].crop(_panel(frames[step]))) for step in steps}
    height, width = panels[steps[-1]].shape[:2]
    caption = LETTER * len(f"step {steps[-1]:,}")
    if width > 2 * height:
        left = MARGIN + caption + MARGIN
        figure = pixel_figure(left + width + MARGIN, MARGIN + len(steps) * (height + GAP) - GAP + MARGIN)
        for index, (step, pixels) in enumerate(panels.items()):
            top = MARGIN + index * (height + GAP)
            pixel_axes(figure, pixels, left, top)
            text_at(figure, left - MARGIN, top + height / 2, f"step {step:,}", ha="right", va="center")
    else:
        figure = pixel_figure(MARGIN + len(steps) * (width + GAP) - GAP + MARGIN, MARGIN + LINE + height + MARGIN)
        for index, (step, pixels) in enumerate(panels.items()):
            left = MARGIN + index * (width + GAP)
            pixel_axes(figure, pixels, left, MARGIN + LINE)
            text_at(figure, left + width / 2, MARGIN, f"step {step:,}", ha="center", va="top")
    return save_figure(path, figure)


def _alike(previews: Mapping[int, Path]) -> dict[int, Image.Image]:
    frames = {}
    for step in sorted(previews):
        with Image.open(previews[step]) as picture:
            frames[step] = picture.convert("RGB")
            frames[step].info[PANEL] = picture.info.get(PANEL)
    size = frames[max(frames)].size if frames else None
    return {step: frame for step, frame in frames.items() if frame.size == size}


def _reduced(frame: Image.Image) -> Image.Image:
    if frame.width <= WIDTH_OF_GIF:
        return frame
    size = (WIDTH_OF_GIF, round(frame.height * WIDTH_OF_GIF / frame.width))
    return frame.resize(size, Image.Resampling.LANCZOS)


def _panel(frame: Image.Image) -> tuple[int, ...]:
    text = frame.info.get(PANEL)
    return (0, 0, *frame.size) if text is None else tuple(map(int, text.split(",")))
