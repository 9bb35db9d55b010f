import numpy as np
import pytest
import torch
from PIL import Image

from rcgm import plots


def test_grid_places_every_image_and_leaves_white_gaps():
    images = torch.stack([torch.full((1, 2, 2), value) for value in (-1.0, 0.0, 1.0)])
    grid = plots.image_grid(images)
    assert grid.shape == (2 + 1 + 2, 2 + 1 + 2, 3)
    assert grid.dtype == np.uint8
    assert (grid[:2, :2] == 0).all()
    assert (grid[:2, 3:] == 128).all()
    assert (grid[3:, :2] == 255).all()
    assert (grid[2] == 255).all()
    assert (grid[3:, 3:] == 255).all()


def test_grid_gives_each_class_its_row():
    values = torch.tensor([0.5, -0.5, 0.5, -0.5, 0.5])
    images = values.reshape(5, 1, 1, 1).expand(5, 3, 2, 2)
    grid = plots.image_grid(images, labels=torch.tensor([1, 0, 1, 0, 1]))
    assert grid.shape == (5, 8, 3)
    assert (grid[:2, [0, 1, 3, 4]] == 64).all()
    assert (grid[:2, 6:] == 255).all()
    assert (grid[3:, [0, 1, 3, 4, 6, 7]] == 191).all()


def test_grid_clamps_and_scales_by_whole_pixels():
    images = torch.tensor([-5.0, 5.0]).reshape(1, 1, 1, 2)
    grid = plots.image_grid(images, scale=3)
    assert grid.shape == (3, 6, 3)
    assert (grid[:, :3] == 0).all()
    assert (grid[:, 3:] == 255).all()


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.zeros(2, 3), {}, "images must have shape"),
        (torch.zeros(0, 1, 2, 2), {}, "images must have shape"),
        (torch.zeros(2, 1, 2, 2), {"labels": torch.zeros(3)}, "labels must have shape"),
        (torch.zeros(2, 1, 2, 2), {"scale": 0}, "scale must be"),
    ],
)
def test_grid_refuses_other_shapes(images, options, message):
    with pytest.raises(ValueError, match=message):
        plots.image_grid(images, **options)


def test_saved_grid_is_the_grid(tmp_path):
    images = torch.rand(6, 3, 4, 4) * 2 - 1
    path = plots.save_image_grid(tmp_path / "new/grid.png", images, scale=2)
    with Image.open(path) as picture:
        assert np.array_equal(np.asarray(picture), plots.image_grid(images, scale=2))


@pytest.mark.parametrize(
    ("samples", "options"),
    [
        ({"1 step": torch.rand(6, 1, 4, 4), "2 steps": torch.rand(6, 1, 4, 4)}, {"labels": torch.arange(6) % 2}),
        ({"1 step": torch.randn(5, 4, 4, 4)}, {"value_range": None}),
        ({"1 step": torch.randn(50, 2)}, {"reference": torch.randn(40, 2)}),
        ({"1 step": torch.randn(50, 2)}, {"labels": torch.arange(50) % 3, "class_names": ("a", "b", "c")}),
    ],
)
def test_panels_draw_something_of_every_kind(samples, options):
    figure = plots.sample_panels(samples, title="step 1", **options)
    assert [axes.get_title() for axes in figure.axes] == list(samples)
    pixels = plots.render(figure)
    assert pixels.ndim == 3
    assert pixels.std() > 5


def test_panels_refuse_mixed_and_one_dimensional_samples():
    with pytest.raises(ValueError, match="one kind"):
        plots.sample_panels({"a": torch.zeros(2, 2), "b": torch.zeros(2, 1, 4, 4)})
    with pytest.raises(ValueError, match="at least 2"):
        plots.sample_panels({"a": torch.zeros(2, 1)})


@pytest.mark.parametrize("count", [1, 10, 200])
def test_curves_are_written(tmp_path, count):
    steps = list(range(count))
    curves = {"loss": (steps, [1.0 / (step + 1) for step in steps]), "other": (steps, [-1.0] * count)}
    path = plots.save_curves(tmp_path / "curve.png", curves, x_label="step", y_label="loss", title="Loss")
    with Image.open(path) as picture:
        assert picture.width > 500
        assert np.asarray(picture).std() > 5


def test_steps_title():
    assert [plots.steps_title(number) for number in (1, 2)] == ["1 step", "2 steps"]
