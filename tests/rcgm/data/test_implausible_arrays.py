"""Arrays that are read without an error by a careless reader, and then train to noise."""

import numpy as np
import pytest
import torch

from rcgm.data import Arrays, Digits, Latents, describe_data
from tests.support.latent_files import write_shards

GENERATOR = np.random.default_rng(0)
BYTES = GENERATOR.integers(0, 256, (20, 1, 6, 6), dtype=np.uint8)
UNIT = GENERATOR.normal(size=(20, 1, 6, 6)).astype(np.float32)


def arrays(folder, samples, labels=None, **arguments):
    np.save(folder / "x.npy", samples)
    if labels is not None:
        np.save(folder / "y.npy", np.asarray(labels))
        arguments["labels_path"] = folder / "y.npy"
    return Arrays(folder / "x.npy", **arguments)


@pytest.mark.parametrize(
    ("samples", "found"),
    [
        (BYTES.astype(np.float32), r"values from 0 to 255, mean \d+(\.\d)?, standard deviation 7"),
        ((BYTES // 8).astype(np.float32), "values from 0 to 31"),
        (UNIT * 100, r"standard deviation [91]\d"),
        (UNIT + 50, r"mean (49|50)(\.\d+)?, standard deviation"),
        (UNIT * 1e-4, r"standard deviation (0\.0001|9\.\d+e-05)"),
        (UNIT * 0, "standard deviation 0"),
    ],
)
def test_scales_that_train_to_noise_are_refused(tmp_path, samples, found):
    with pytest.raises(ValueError, match=rf"standard deviation near 1, got .*{found}.*: of pixels set value_range"):
        arrays(tmp_path, samples)


@pytest.mark.parametrize("samples", [UNIT, UNIT * 5, BYTES.astype(np.float32) / 255, UNIT * 0.18215])
def test_usual_scales_are_taken(tmp_path, samples):
    assert len(arrays(tmp_path, samples)) == 20


@pytest.mark.parametrize(("scale", "span"), [(1.0, (0, 255)), (1 / 255, (0, 1)), (2 / 255, (0, 2))])
def test_floating_pixels_with_a_range_are_those_of_bytes(tmp_path, scale, span):
    data = arrays(tmp_path, BYTES.astype(np.float64) * scale, value_range=span)
    assert data.info.value_range == (-1.0, 1.0)
    x, _ = data.take(torch.arange(20))
    assert float(x.min()) == -1.0 and float(x.max()) == 1.0
    # Three float32 roundings of numbers of at most 2 on either way.
    torch.testing.assert_close(x, torch.from_numpy(BYTES).float() / 127.5 - 1, rtol=0, atol=6 * 2**-23)


def test_pixels_outside_of_the_range_are_named_when_read(tmp_path):
    data = arrays(tmp_path, BYTES.astype(np.float32), value_range=(0, 254))
    worst = int(BYTES.reshape(20, -1).max(1).argmax())
    with pytest.raises(ValueError, match=rf"got \[0\.0, 254\.0\] and others in sample {worst} .*: make it wider"):
        data[worst]


@pytest.mark.parametrize("samples", [BYTES[:, 0], BYTES[:, 0].astype(np.float32)])
def test_pixels_without_a_channel_axis_have_one_channel(tmp_path, samples):
    span = None if samples.dtype == np.uint8 else (0, 255)
    data = arrays(tmp_path, samples, value_range=span)
    assert data.info.shape == (1, 6, 6)
    x, _ = data.take(torch.arange(20))
    torch.testing.assert_close(x, torch.from_numpy(BYTES).float() / 127.5 - 1)


@pytest.mark.parametrize("shape", [(20, 28, 28, 1), (20, 16, 24, 3), (20, 8, 8, 4)])
def test_floats_with_channels_last_are_not_taken_for_many_channels(tmp_path, shape):
    samples = GENERATOR.normal(size=shape)
    with pytest.raises(ValueError, match=r"looks like \[N, H, W, C\]: set channels_last=True, or False"):
        arrays(tmp_path, samples)
    assert arrays(tmp_path, samples, channels_last=True).info.shape == (shape[3], shape[1], shape[2])
    assert arrays(tmp_path, samples, channels_last=False).info.shape == shape[1:]


@pytest.mark.parametrize("shape", [(20, 4, 4, 4), (20, 32, 1, 1), (20, 16, 8, 4), (20, 4, 32, 32), (20, 3, 8, 3)])
def test_latents_of_unusual_shapes_are_taken(tmp_path, shape):
    assert arrays(tmp_path, GENERATOR.normal(size=shape)).info.shape == shape[1:]


def test_labels_that_are_no_numbers_of_classes_are_refused(tmp_path):
    labels = [0, 1_000_000] * 10
    with pytest.raises(ValueError, match=r"number the classes from 0, got 2 different ones up to 1000000: renumber"):
        arrays(tmp_path, UNIT, labels)
    assert arrays(tmp_path, UNIT, labels, num_classes=1_000_001).info.num_classes == 1_000_001
    # A few that do not occur are no reason to refuse.
    assert arrays(tmp_path, UNIT, [0, 1, 3, 4] * 5).info.num_classes == 5


def test_labels_of_latents_too(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.support.latent_files.label", lambda index: 1000 * index)
    with pytest.raises(ValueError, match="number the classes from 0, got 17 different ones up to 16000"):
        Latents(write_shards(tmp_path))


@pytest.mark.parametrize(
    ("samples", "span", "message"),
    [
        (BYTES, (0, 255), "must be left out of uint8 samples"),
        (UNIT, (1, 1), r"must be \(low, high\) with low below high, got \(1, 1\)"),
        (UNIT, (0, float("nan")), r"must be \(low, high\)"),
    ],
)
def test_refuses_ranges(tmp_path, samples, span, message):
    with pytest.raises(ValueError, match=f"value_range {message}"):
        arrays(tmp_path, samples, value_range=span)


def test_what_was_found_is_told(tmp_path):
    lines = describe_data(arrays(tmp_path, BYTES, [0, 1, 3, 3] * 5, num_classes=6))
    assert lines[0].startswith("data: 20 images of 1 x 6 x 6, values from -1 to 1, mean ")
    assert lines[1:] == ["classes: 6, of 0 to 10 samples", "classes without a sample: 3 (2, 4, 5)"]
    lines = describe_data(Digits())
    assert "1,797 images of 1 x 8 x 8" in lines[0] and lines[1] == "classes: 10, of 174 to 183 samples"


def test_what_was_found_of_latents_and_points(tmp_path):
    (line, classes) = describe_data(Latents(write_shards(tmp_path, labels=False)))
    assert line.startswith("data: 17 latents of 4 x 3 x 2") and classes == "classes: none"
    assert describe_data(arrays(tmp_path, UNIT.reshape(20, 36)))[0].startswith("data: 20 points of 36, values from ")
