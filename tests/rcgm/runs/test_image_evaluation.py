"""FID and the rest, from a configuration and from the command line, with a small network in place of Inception."""

import json

import pytest
import torch

from rcgm.cli import main
from rcgm.config import ConfigError, config_to_yaml, parse_config
from rcgm.evaluation import read_reference
from rcgm.runs import measures
from rcgm.training import train

DIGITS = {
    "steps": 4,
    "batch_size": 8,
    "data": {"name": "digits"},
    "model": {"name": "dit", "preset": "nano/2"},
    "objective": {"name": "rcgm"},
    "checkpoint": {"every": 4},
    "logging": {"every": 2, "tensorboard": False},
    "sample": {"every": 0},
}
MEASURES = {"samples", "reference_samples", "frechet_distance", "precision", "recall"} | {
    "inception_score",
    "inception_score_deviation",
}


@pytest.fixture(autouse=True)
def inception(monkeypatch):
    def load(path, device):
        projection = torch.randn(192, 6, generator=torch.Generator().manual_seed(0)) / 14

        def network(images):
            features = (images.float() / 128 - 1).flatten(1) @ projection
            return features, features[:, :4]

        assert path == "inception.pth"
        return network

    monkeypatch.setattr(measures, "load_inception", load)


def test_while_training_and_on_the_command_line(tmp_path, capsys):
    settings = {"every": 2, "steps": [1], "count": 24, "features": "inception.pth", "reference_count": 40}
    config = parse_config({**DIGITS, "evaluate": {**settings, "batch_size": 10}})
    summary = train(config, tmp_path / "run", show_progress=False)
    by_step = json.loads((tmp_path / "run/evaluations.json").read_text())
    assert set(by_step) == {"2", "4"}
    assert set(by_step["4"]["1"]) == MEASURES
    assert by_step["4"] == summary["evaluation"]

    words = ["--steps", "1", "--count", "24", "--batch-size", "10", "--device", "cpu"]
    real = str(tmp_path / "real.safetensors")
    assert main(["evaluate", str(tmp_path / "run"), *words, "--save-reference", real]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["steps"]["1"] == pytest.approx(by_step["4"]["1"])
    assert read_reference(real)[0].features.shape == (40, 6)
    assert main(["evaluate", str(tmp_path / "run"), *words, "--reference", real]) == 0
    assert json.loads(capsys.readouterr().out) == report

    blind = train(parse_config({**DIGITS, "evaluate": {"at_end": False}}), tmp_path / "blind", show_progress=False)
    assert blind["final"]["loss"] == summary["final"]["loss"]


def test_a_reference_needs_the_network_that_judges():
    with pytest.raises(ConfigError, match="reference must be left out without features"):
        parse_config({**DIGITS, "evaluate": {"reference": "real.npz"}})


def test_statistics_are_only_of_images_that_are_judged(tmp_path, capsys):
    train(parse_config({**DIGITS, "steps": 1, "evaluate": {"at_end": False}}), tmp_path, show_progress=False)
    code = main(["evaluate", str(tmp_path), "--save-reference", str(tmp_path / "a.safetensors"), "--device", "cpu"])
    assert code == 2
    assert "--save-reference must be left out without --features" in capsys.readouterr().err


def test_a_missing_package_is_named_without_a_traceback(tmp_path, capsys, monkeypatch):
    def load(path, device):
        raise ModuleNotFoundError(
            "needs the package torch-fidelity: pip install 'rcgm[evaluate]'", name="torch_fidelity"
        )

    monkeypatch.setattr(measures, "load_inception", load)
    path = tmp_path / "run.yaml"
    path.write_text(config_to_yaml(parse_config({**DIGITS, "evaluate": {"features": "inception.pth"}})))
    assert main(["train", str(path), "--output", str(tmp_path / "run")]) == 2
    assert "pip install 'rcgm[evaluate]'" in capsys.readouterr().err
    assert not (tmp_path / "run/metrics.jsonl").exists(), "said before the first step"
