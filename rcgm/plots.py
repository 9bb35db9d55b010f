"""Pictures of samples and of training: grids, scatter plots, curves.

Drawn with matplotlib's Agg canvas on figures of their own, so they work without a display and leave pyplot alone.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from rcgm.files import write_atomically

__all__ = [
    "image_grid",
    "render",
    "sample_panels",
    "save_curves",
    "save_figure",
    "save_image_grid",
    "steps_title",
]

INK = "#22252b"
FAINT = "#c9ced6"
COLOURS = ("#2f6fb0", "#d1642a", "#3b8f5d", "#8a5bb3", "#b98a1d", "#b0413e")
GAP = 1
"""Pixels of a sample between two samples of a grid."""
MAX_POINTS = 20_000


def image_grid(
    images: Tensor, *, labels: Tensor | None = None, value_range: tuple[float, float] = (-1.0, 1.0), scale: int = 1
) -> np.ndarray:
    """Lay images out as one picture, about as high as it is wide; every class begins a row of its own.

    Args:
        images: ``[N, C, H, W]``, floating, C of 1 or 3; further channels (of latents) are left out.
        labels: ``[N]``, int64: images of one class lie together, classes ascending; None for one class.
        value_range: values shown as black and as white; values outside are clamped.
        scale: pixels of the picture per pixel of an image, at least 1.

    Returns:
        uint8 ``[rows, columns, 3]``; the gaps and the cells of short rows are white.

    Raises:
        ValueError: images or labels are not as above.
    """
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"images must have shape [N, C, H, W] with N of at least 1, got {list(images.shape)}")
    if labels is not None and tuple(labels.shape) != (len(images),):
        raise ValueError(f"labels must have shape [{len(images)}], got {list(labels.shape)}")
    if scale < 1:
        raise ValueError(f"scale must be at least 1, got {scale}")
    low, high = value_range
    pixels = ((images.detach().float().cpu() - low) / (high - low)).clamp(0.0, 1.0).mul(255.0).round().byte()
    pixels = pixels[:, :3] if pixels.shape[1] >= 3 else pixels[:, :1].expand(-1, 3, -1, -1)
    cells = pixels.permute(0, 2, 3, 1).numpy().repeat(scale, axis=1).repeat(scale, axis=2)
    rows = _rows(len(images), labels)
    height, width, gap = cells.shape[1], cells.shape[2], GAP * scale
    columns = max(len(members) for _, members in rows)
    shape = (len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3)
    picture = np.full(shape, 255, dtype=np.uint8)
    for row, (_, members) in enumerate(rows):
        for column, member in enumerate(members):
            top, left = row * (height + gap), column * (width + gap)
            picture[top : top + height, left : left + width] = cells[member]
    return picture


def save_image_grid(path: str | os.PathLike[str], images: Tensor, **options: object) -> Path:
    """Write :func:`image_grid` as a PNG, atomically."""
    stream = io.BytesIO()
    Image.fromarray(image_grid(images, **options)).save(stream, format="png")  # type: ignore[arg-type]
    return write_atomically(path, stream.getvalue())


def sample_panels(
    samples: Mapping[str, Tensor],
    *,
    labels: Tensor | None = None,
    reference: Tensor | None = None,
    value_range: tuple[float, float] | None = (-1.0, 1.0),
    class_names: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """Sets of samples side by side, each under its name: pictures as grids, points of two dimensions as scatter plots.

    Args:
        samples: by title of the panel: ``[N, C, H, W]`` pictures, or ``[N, D]`` points of which the first two
            coordinates are drawn.
        labels: ``[N]``, int64, classes of the samples: rows of a grid, colours of points.
        reference: ``[M, D]`` real points, drawn in grey behind the generated ones and setting the axes.
        value_range: as for :func:`image_grid`; None takes the range of the channels that are drawn (latents).
        class_names: by class, written beside the rows of a grid or in a legend.
        title: above all panels.

    Raises:
        ValueError: no samples, or of another shape.
    """
    shapes = {tuple(tensor.shape[1:]) for tensor in samples.values()}
    if len(shapes) != 1:
        raise ValueError(f"samples must hold tensors of one kind of sample, got shapes {sorted(shapes)}")
    axes_of_sample = len(shapes.pop())
    if axes_of_sample == 3:
        figure = _grid_panels(samples, labels, value_range, class_names)
    elif axes_of_sample == 1 and next(iter(samples.values())).shape[1] >= 2:
        figure = _scatter_panels(samples, labels, reference, class_names)
    else:
        raise ValueError("samples must be pictures [N, C, H, W] or points [N, D] with D of at least 2")
    if title:
        figure.suptitle(title, fontsize=12, color=INK)
    return figure


def save_curves(
    path: str | os.PathLike[str],
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
) -> Path:
    """Draw curves and write them as a PNG, atomically.

    Args:
        path: of the PNG.
        curves: (x, y) by name. A curve of more than 50 values is drawn faintly under its running mean. The y axis is
            logarithmic where all values are positive.
        x_label, y_label, title: texts.
    """
    figure = _figure(7.0, 4.0)
    axes = figure.add_subplot()
    positive = True
    for (name, (x, y)), colour in zip(curves.items(), _colours(len(curves)), strict=True):
        xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        positive = positive and bool((ys > 0).all())
        smooth = _running_mean(ys)
        if smooth is not None:
            axes.plot(xs, ys, color=colour, linewidth=0.8, alpha=0.35)
        axes.plot(xs, ys if smooth is None else smooth, color=colour, linewidth=1.8, label=name)
    if positive and curves:
        axes.set_yscale("log")
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.set_title(title, fontsize=12, color=INK, loc="left")
    axes.grid(True, which="major", color=FAINT, linewidth=0.6, alpha=0.7)
    axes.margins(x=0.01)
    _quiet(axes)
    if len(curves) > 1:
        axes.legend(frameon=False, labelcolor=INK)
    return save_figure(path, figure)


def steps_title(steps: int) -> str:
    """``1 step``, ``2 steps``."""
    return f"{steps} step" if steps == 1 else f"{steps} steps"


def render(figure: Figure) -> np.ndarray:
    """The figure as pixels, uint8 ``[H, W, 3]``."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_figure(path: str | os.PathLike[str], figure: Figure) -> Path:
    """Write a figure as a PNG, atomically."""
    stream = io.BytesIO()
    Image.fromarray(render(figure)).save(stream, format="png")
    return write_atomically(path, stream.getvalue())


def _rows(count: int, labels: Tensor | None) -> list[tuple[int | None, list[int]]]:
    """Class and members of each row of a grid that is about as high as it is wide."""
    listed: list[int | None] = [None] * count if labels is None else labels.tolist()
    longest = math.ceil(1.5 * math.sqrt(count)) if labels is not None else math.ceil(math.sqrt(count))
    rows = []
    for value in sorted(set(listed), key=lambda value: value or 0):
        members = [index for index, label in enumerate(listed) if label == value]
        columns = math.ceil(len(members) / math.ceil(len(members) / longest))
        rows += [(value, members[start : start + columns]) for start in range(0, len(members), columns)]
    return rows


def _grid_panels(
    samples: Mapping[str, Tensor],
    labels: Tensor | None,
    value_range: tuple[float, float] | None,
    class_names: Sequence[str],
) -> Figure:
    if value_range is None:
        shown = [tensor[:, :3] for tensor in samples.values()]
        value_range = (
            min(float(tensor.min()) for tensor in shown),
            max(float(tensor.max()) for tensor in shown) + 1e-6,
        )
    first = next(iter(samples.values()))
    # Small pictures are enlarged by whole pixels here, as the scaling of matplotlib would blur them.
    scale = max(1, 32 // first.shape[-1])
    grids = {
        name: image_grid(tensor, labels=labels, value_range=value_range, scale=scale)
        for name, tensor in samples.items()
    }
    height, width = next(iter(grids.values())).shape[:2]
    panel = min(4.5, max(2.2, width / 90))
    figure = _figure(panel * len(grids) + 0.4, panel * height / width + 0.6)
    for index, (name, grid) in enumerate(grids.items()):
        axes = figure.add_subplot(1, len(grids), index + 1)
        axes.imshow(grid, interpolation="antialiased")
        axes.set_title(name, fontsize=10, color=INK)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
        if labels is not None and index == 0:
            classes = [value for value, _ in _rows(len(labels), labels)]
            cell = (height + GAP * scale) / len(classes)
            first_rows = [row for row, value in enumerate(classes) if row == 0 or classes[row - 1] != value]
            names = [class_names[classes[row]] if class_names else str(classes[row]) for row in first_rows]
            axes.set_yticks([cell * (row + 0.5) for row in first_rows], names, fontsize=8, color=INK)
            axes.tick_params(length=0)
    return figure


def _scatter_panels(
    samples: Mapping[str, Tensor], labels: Tensor | None, reference: Tensor | None, class_names: Sequence[str]
) -> Figure:
    real = None if reference is None else _points(reference)
    figure = _figure(3.2 * len(samples) + 0.3, 3.6)
    for index, (name, tensor) in enumerate(samples.items()):
        axes = figure.add_subplot(1, len(samples), index + 1)
        points = _points(tensor)
        size = min(6.0, max(1.0, 4000 / len(points)))
        if real is not None:
            axes.scatter(real[:, 0], real[:, 1], s=size, color=FAINT, linewidths=0, label="data", rasterized=True)
        for value, colour in _classes(labels):
            chosen = slice(None) if value is None else labels[: len(points)].cpu().numpy() == value  # type: ignore
            label = "samples" if value is None else (class_names[value] if class_names else f"class {value}")
            axes.scatter(
                points[chosen, 0], points[chosen, 1], s=size, color=colour, linewidths=0, alpha=0.7, label=label
            )
        shown = points if real is None else real
        centre, reach = shown.mean(axis=0), 1.25 * np.abs(shown - shown.mean(axis=0)).max() + 1e-6
        axes.set_xlim(centre[0] - reach, centre[0] + reach)
        axes.set_ylim(centre[1] - reach, centre[1] + reach)
        axes.set_aspect("equal")
        axes.set_title(name, fontsize=10, color=INK)
        axes.set_xticks([])
        axes.set_yticks([])
        _quiet(axes)
        if index == 0 and (real is not None or labels is not None):
            axes.legend(frameon=False, fontsize=8, markerscale=3.0, loc="upper right", labelcolor=INK)
    return figure


def _points(tensor: Tensor) -> np.ndarray:
    return tensor[:MAX_POINTS].detach().float().cpu().numpy()


def _classes(labels: Tensor | None) -> list[tuple[int | None, str]]:
    values: list[int | None] = [None] if labels is None else sorted(set(labels.tolist()))
    return list(zip(values, _colours(len(values)), strict=True))


def _colours(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=130, layout="constrained", facecolor="white")


def _quiet(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK, which="both", labelsize=8)


def _running_mean(values: np.ndarray) -> np.ndarray | None:
    if len(values) <= 50:
        return None
    window = max(5, len(values) // 30) | 1
    padded = np.pad(values, window // 2, mode="edge")
    return np.convolve(padded, np.full(window, 1.0 / window), mode="valid")
