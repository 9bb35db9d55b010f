"""From an array of one's own images to numbers that say how good the samples are."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rcgm.cli import main
from rcgm.data import Arrays, Digits
from rcgm.runs.measures import PixelMeasure, build_measure

CONFIG = Path(__file__).parents[3] / "configs" / "digits.yaml"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    digits = Digits()
    pixels = ((digits.samples[:, 0] + 1) * 127.5).round().numpy().astype(np.uint8)
    np.savez(path, images=pixels, labels=digits.labels.numpy())
    return path


class RealImages:
    """A sampler of real images, for a measure whose result is known then."""

    def __init__(self, dataset):
        self._samples, self._labels = dataset.take(torch.arange(1, len(dataset), 2))

    def draw(self, count, *, steps, on_chunk=None):
        return self._samples[:count]

    def labels(self, rows):
        return self._labels[rows.start : rows.stop]


def test_real_images_are_measured_as_real(file):
    dataset = Arrays(file)
    measure = build_measure(dataset)
    assert isinstance(measure, PixelMeasure)
    report = measure(RealImages(dataset), 500, steps=1)
    assert report["class_accuracy"] > 0.97 and report["nearest_median_ratio"] < 1e-6
    assert 0.5 < report["frechet_distance"] / report["frechet_floor"] < 2


def test_a_run_on_ones_own_images_is_evaluated(file, tmp_path, capsys):
    words = [f"data={{name: arrays, path: {file}}}", "steps=2", "model.depth=1", "sample.every=0", "evaluate.count=20",
             "evaluate.steps=[1]", "logging.tensorboard=false"]  # fmt: skip
    assert main(["train", str(CONFIG), *words, "--output", str(tmp_path / "run")]) == 0
    told = capsys.readouterr()
    assert "data: 1,797 images of 1 x 8 x 8" in told.err and "class_accuracy" in told.out
    assert main(["evaluate", str(tmp_path / "run"), "--steps", "1,2", "--count", "30"]) == 0
    report = json.loads(capsys.readouterr().out)["steps"]
    assert set(report) == {"1", "2"} and report["1"]["samples"] == 30
    assert {"frechet_distance", "frechet_floor", "class_accuracy", "nearest_median_ratio"} <= set(report["2"])
