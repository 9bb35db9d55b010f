"""The common style of all pictures: colours, figures, files.

Drawn with matplotlib's Agg canvas on figures of their own: they need no display and leave pyplot alone.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin

from rcgm.files import write_atomically

INK = "#22252b"
FAINT = "#c9ced6"
COLOURS = ("#2f6fb0", "#d1642a", "#3b8f5d", "#8a5bb3", "#b98a1d", "#b0413e")
DPI = 130
PANEL = "rcgm:panel"
"""Text of a PNG: left, top, right and bottom of its first row of images or first scatter plot, in pixels."""


def new_figure(width: float, height: float) -> Figure:
    """A figure of this size in inches, whose axes are laid out by matplotlib."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")


def pixel_figure(width: int, height: int) -> Figure:
    """A figure of this size in pixels, for axes of :func:`pixel_axes`."""
    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")


def pixel_axes(figure: Figure, pixels: np.ndarray, left: int, top: int) -> None:
    """Put ``pixels`` ``[H, W, 3]`` into a :func:`pixel_figure`, each on one pixel of the figure."""
    width, height = (round(inches * DPI) for inches in figure.get_size_inches())
    rows, columns = pixels.shape[:2]
    place = (left / width, 1 - (top + rows) / height, columns / width, rows / height)
    axes = figure.add_axes(place)
    axes.imshow(pixels, interpolation="nearest", aspect="auto")
    axes.set_axis_off()


def text_at(figure: Figure, left: float, top: float, text: str, **options: object) -> None:
    """Write ``text`` at this place, in pixels from the upper left corner. Dollars are dollars, and begin no formula."""
    width, height = (inches * DPI for inches in figure.get_size_inches())
    style = {"color": INK, "fontsize": 8, "parse_math": False}
    figure.text(left / width, 1 - top / height, text, **{**style, **options})


def render(figure: Figure) -> np.ndarray:
    """The figure as pixels, uint8 ``[H, W, 3]``."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_figure(path: str | os.PathLike[str], figure: Figure) -> Path:
    """Write a figure as a PNG, atomically. It says where its first panel lies, see :data:`PANEL`."""
    pixels = render(figure)
    text = PngImagePlugin.PngInfo()
    if figure.axes:
        box = figure.axes[0].get_window_extent()
        height = pixels.shape[0]
        text.add_text(PANEL, ",".join(str(round(edge)) for edge in (box.x0, height - box.y1, box.x1, height - box.y0)))
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="png", pnginfo=text)
    return write_atomically(path, stream.getvalue())


def quiet(axes: Axes) -> None:
    """Take away what draws the eye from the data."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK, which="both", labelsize=8)


def colours(count: int) -> list[str]:
    """As many colours, which repeat where there are more than :data:`COLOURS`."""
    return [COLOURS[index % len(COLOURS)] for index in range(count)]
