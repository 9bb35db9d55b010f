import numpy as np
import pytest
import torch
from PIL import Image

from rcgm import plots
from rcgm.plots.grids import LARGEST, SMALLEST, columns_for, enlarged, image_rows


def test_small_images_are_enlarged_smoothly_and_each_by_itself():
    step = torch.tensor([-1.0, -1.0, 1.0, 1.0]).expand(1, 1, 4, 4)
    black, white = -torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    cells = enlarged(torch.cat([black, step, white]), (-1.0, 1.0))
    assert cells.shape == (3, SMALLEST, SMALLEST, 3)
    assert cells.dtype == np.uint8
    assert (cells[0] == 0).all() and (cells[2] == 255).all()  # nothing of a neighbour
    row = cells[1, 0, :, 0].astype(int)
    assert (np.diff(row[SMALLEST // 4 : 3 * SMALLEST // 4]) >= 0).all()
    assert len(set(row.tolist())) > 8  # more than black and white: no whole pixels


@pytest.mark.parametrize("size", [SMALLEST, 64, LARGEST])
def test_images_of_middle_sizes_stay_as_they_are(size):
    values = torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(0))
    cells = enlarged(values / 127.5 - 1.0, (-1.0, 1.0))
    assert np.array_equal(cells, values.permute(0, 2, 3, 1).byte().numpy())


def test_large_images_are_reduced_and_values_clamped():
    cells = enlarged(torch.tensor([-9.0, 9.0]).view(2, 1, 1, 1).expand(2, 5, 512, 256), (0.0, 1.0))
    assert cells.shape == (2, LARGEST, LARGEST // 2, 3)
    assert (cells[0] == 0).all() and (cells[1] == 255).all()


def test_rows_have_white_gaps_and_a_white_rest():
    rows = image_rows(np.zeros((3, 2, 5, 3), dtype=np.uint8), columns=2)
    assert [row.shape for row in rows] == [(2, 14, 3)] * 2
    assert (rows[0][:, :5] == 0).all() and (rows[0][:, 5:9] == 255).all() and (rows[0][:, 9:] == 0).all()
    assert (rows[1][:, :5] == 0).all() and (rows[1][:, 5:] == 255).all()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (None, (21, False)),
        ([n % 10 for n in range(40)], (20, True)),  # whole turns of the classes
        ([3, 7] * 20, (20, True)),
        (list(range(40)), (21, False)),  # more classes than a row has room for
        ([0] * 40, (21, True)),
    ],
)
def test_columns_hold_one_class_where_there_is_room(labels, expected):
    assert columns_for(48, 40, labels) == expected


def test_a_row_is_no_longer_than_the_samples():
    assert columns_for(48, 3, None) == (3, False)
    assert columns_for(5000, 3, None) == (1, False)


@pytest.mark.parametrize(
    ("samples", "options", "panels"),
    [
        ({"1 step": torch.rand(6, 1, 4, 4), "data": torch.rand(4, 1, 4, 4)}, {"labels": torch.arange(6) % 2}, 2),
        ({"1 step": torch.randn(50, 4, 4, 4)}, {"value_range": None}, 3),
        ({"1 step": torch.rand(4, 1, 8, 8)}, {"labels": torch.arange(4), "class_names": ["long names"] * 4}, 1),
        ({"1 step": torch.randn(50, 2)}, {"reference": torch.randn(40, 2)}, 1),
        ({"1 step": torch.randn(50, 2)}, {"labels": torch.arange(50) % 3, "class_names": ("a", "b", "c")}, 1),
    ],
)
def test_panels_draw_something_of_every_kind(samples, options, panels):
    figure = plots.sample_panels(samples, title="step 1", **options)
    assert len(figure.axes) == panels
    pixels = plots.render(figure)
    assert pixels.ndim == 3
    assert pixels.std() > 5


def test_images_are_drawn_pixel_by_pixel(tmp_path):
    images = torch.rand(3, 3, 60, 60, generator=torch.Generator().manual_seed(0)) * 2 - 1
    path = plots.save_figure(tmp_path / "new" / "samples.png", plots.sample_panels({"1 step": images}))
    with Image.open(path) as picture:
        left, top, right, bottom = map(int, picture.text["rcgm:panel"].split(","))
        drawn = np.asarray(picture)[top:bottom, left:right]
    assert np.array_equal(drawn, image_rows(enlarged(images, (-1.0, 1.0)), 3)[0])


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        ({}, {}, "one kind"),
        ({"a": torch.zeros(2, 2), "b": torch.zeros(2, 1, 4, 4)}, {}, "one kind"),
        ({"a": torch.zeros(2, 1)}, {}, "at least 2"),
        ({"a": torch.zeros(0, 1, 4, 4)}, {}, "at least one sample"),
        ({"a": torch.zeros(2, 1, 4, 4)}, {"labels": torch.zeros(3)}, "labels must have shape"),
    ],
)
def test_panels_refuse_other_samples(samples, options, message):
    with pytest.raises(ValueError, match=message):
        plots.sample_panels(samples, **options)


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


def previews(folder, samples_of, steps):
    written = {}
    for step in steps:
        figure = plots.sample_panels({"1 step": samples_of(step), "2 steps": samples_of(step)}, title=f"step {step}")
        written[step] = plots.save_figure(folder / f"step_{step:08d}.png", figure)
    return written


def shade(step):
    return torch.full((3, 1, 8, 8), step / 500 - 1)


def test_a_film_shows_every_preview(tmp_path):
    path = plots.save_film(tmp_path / "training.gif", previews(tmp_path, shade, [200, 100, 900, 400]))
    with Image.open(path) as film:
        assert film.n_frames == 4
        levels = []
        for index in range(4):
            film.seek(index)
            levels.append(np.asarray(film.convert("L")).mean())
    assert levels == sorted(levels) and levels[0] < levels[-1] - 5  # in the order of their steps


def test_a_strip_shows_the_first_row_of_some_previews(tmp_path):
    written = previews(tmp_path, shade, range(100, 1000, 100))
    with Image.open(plots.save_film_strip(tmp_path / "training.png", written)) as strip:
        column = np.asarray(strip.convert("L"))[:, -20].astype(float)  # through the last images
    shades = np.unique(column[column < 255])
    np.testing.assert_allclose(shades * 1000 / 255, [100, 200, 400, 600, 900], atol=3)  # evenly spaced logarithms


def test_a_strip_of_plots_lies_side_by_side(tmp_path):
    points = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    written = previews(tmp_path, lambda step: points, [1, 2, 3])
    with Image.open(plots.save_film_strip(tmp_path / "training.png", written)) as strip:
        assert strip.width > 2 * strip.height


@pytest.mark.parametrize("save", [plots.save_film, plots.save_film_strip])
def test_a_film_takes_two_previews_of_one_size(tmp_path, save):
    other = previews(tmp_path, lambda step: torch.zeros(30, 1, 8, 8), [1])
    assert save(tmp_path / "film", {}) is None
    assert save(tmp_path / "film", {**other, **previews(tmp_path, shade, [2])}) is None
    assert not (tmp_path / "film").exists()


def test_captions_are_written_under_the_images():
    images = torch.zeros(5, 3, 8, 16)
    captions = ["a red three left of a green seven", "costs $5 and $\\frac", "", "two\nlines \x1b[31m", "word " * 100]
    plain = plots.sample_panels({"1 step": images}, labels=None)
    figure = plots.sample_panels({"1 step": images, "2 steps": images}, captions=captions)
    written = [text.get_text() for text in figure.texts]
    assert written.count("a red three left of a\ngreen seven") == 2  # under each set
    assert "costs $5 and $\\frac" in written and "two lines ?[31m" in written
    assert any(text.endswith("…") and text.count("\n") == 2 for text in written)
    assert plots.render(figure).shape[0] > plots.render(plain).shape[0]
    with pytest.raises(ValueError, match="captions must be 5, one an image, got 2"):
        plots.sample_panels({"1 step": images}, captions=["a", "b"])
    with pytest.raises(ValueError, match="captions must be 5"):
        plots.sample_panels({"1 step": torch.zeros(5, 2)}, captions=["a"] * 5)
