"""Curves over the steps of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rcgm.plots.style import FAINT, INK, colours, new_figure, quiet, save_figure


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
    figure = new_figure(7.0, 4.0)
    axes = figure.add_subplot()
    positive = True
    for (name, (x, y)), colour in zip(curves.items(), colours(len(curves)), strict=True):
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
    quiet(axes)
    if len(curves) > 1:
        axes.legend(frameon=False, labelcolor=INK)
    return save_figure(path, figure)


def _running_mean(values: np.ndarray) -> np.ndarray | None:
    if len(values) <= 50:
        return None
    window = max(5, len(values) // 30) | 1
    padded = np.pad(values, window // 2, mode="edge")
    return np.convolve(padded, np.full(window, 1.0 / window), mode="valid")
