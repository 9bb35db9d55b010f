"""Pictures of samples and of training: rows of images, scatter plots, curves, films of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from rcgm.plots.curves import save_curves
from rcgm.plots.film import save_film, save_film_strip
from rcgm.plots.grids import grid_panels
from rcgm.plots.scatter import scatter_panels
from rcgm.plots.style import render, save_figure

__all__ = ["render", "sample_panels", "save_curves", "save_figure", "save_film", "save_film_strip", "steps_title"]


def sample_panels(
    samples: Mapping[str, Tensor],
    *,
    labels: Tensor | None = None,
    reference: Tensor | None = None,
    value_range: tuple[float, float] | None = (-1.0, 1.0),
    class_names: Sequence[str] = (),
    title: str = "",
    captions: Sequence[str] = (),
) -> Figure:
    """Sets of samples, each under its name: images in rows, sets one below the other; points as scatter plots.

    The longer side of an image takes 48 to 128 pixels; smaller images are enlarged with a cubic filter. The n-th images
    of all sets stand in one column.

    Args:
        samples: by name: ``[N, C, H, W]`` images, of which up to three channels are drawn, or ``[N, D]`` points, of
            which the first two coordinates are drawn. N may differ between sets of images.
        labels: ``[N]``, int64, classes of the samples, written above the columns or as colours of points.
        reference: ``[M, D]`` real points, drawn in grey behind the generated ones and setting the axes.
        value_range: values shown as black and as white; None takes the range of the channels that are drawn (latents).
        class_names: by class; numbers are written without.
        title: above all of them.
        captions: one a sample of the largest set, written under the images, three lines of each at most.

    Raises:
        ValueError: no samples, of different kinds or of another shape, or labels or captions of another length.
    """
    shapes = {tuple(tensor.shape[1:]) for tensor in samples.values()}
    if len(shapes) != 1:
        raise ValueError(f"samples must hold tensors of one kind of sample, got shapes {sorted(shapes)}")
    if any(len(tensor) == 0 for tensor in samples.values()):
        raise ValueError(f"samples must hold at least one sample each, got {[len(set_) for set_ in samples.values()]}")
    most = max(len(tensor) for tensor in samples.values())
    if labels is not None and tuple(labels.shape) != (most,):
        raise ValueError(f"labels must have shape [{most}], got {list(labels.shape)}")
    axes_of_sample = len(shapes.pop())
    if captions and (len(captions) != most or axes_of_sample != 3):
        raise ValueError(f"captions must be {most}, one an image, got {len(captions)}")
    if axes_of_sample == 3:
        return grid_panels(samples, labels, value_range, class_names, title, captions)
    if axes_of_sample == 1 and next(iter(samples.values())).shape[1] >= 2:
        return scatter_panels(samples, labels, reference, class_names, title)
    raise ValueError("samples must be pictures [N, C, H, W] or points [N, D] with D of at least 2")


def steps_title(steps: int) -> str:
    """``1 step``, ``2 steps``."""
    return f"{steps} step" if steps == 1 else f"{steps} steps"
