"""Pictures of points of two dimensions: sets of samples side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from rcgm.plots.style import FAINT, INK, colours, new_figure, quiet

MAX_POINTS = 20_000


def scatter_panels(
    samples: Mapping[str, Tensor],
    labels: Tensor | None,
    reference: Tensor | None,
    class_names: Sequence[str],
    title: str,
) -> Figure:
    """See :func:`rcgm.plots.sample_panels`."""
    real = None if reference is None else _points(reference)
    figure = new_figure(3.2 * len(samples) + 0.3, 3.6)
    for index, (name, tensor) in enumerate(samples.items()):
        axes = figure.add_subplot(1, len(samples), index + 1, label=name)
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
        quiet(axes)
        if index == 0 and (real is not None or labels is not None):
            axes.legend(frameon=False, fontsize=8, markerscale=3.0, loc="upper right", labelcolor=INK)
    if title:
        figure.suptitle(title, fontsize=12, color=INK)
    return figure


def _points(tensor: Tensor) -> np.ndarray:
    return tensor[:MAX_POINTS].detach().float().cpu().numpy()


def _classes(labels: Tensor | None) -> list[tuple[int | None, str]]:
    values: list[int | None] = [None] if labels is None else sorted(set(labels.tolist()))
    return list(zip(values, colours(len(values)), strict=True))
