import json
import sys
from types import ModuleType

import numpy as np
import pytest

from rcgm.cli import main
from rcgm.config import ConfigError
from rcgm.training import train


class StandIn(ModuleType):
    """Notes what it is told, as the package wandb takes it."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: list = []

    def init(self, **options):
        run = StandInRun(options)
        self.runs.append(run)
        return run

    @staticmethod
    def Image(pixels):  # noqa: N802
        assert pixels.dtype == np.uint8 and pixels.ndim == 3
        return "image"


class StandInRun:
    def __init__(self, options) -> None:
        self.options, self.logged, self.finished = options, [], False

    def log(self, values, step):
        assert not self.finished
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    module = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_numbers_and_pictures_of_a_run_and_of_its_resumption(tmp_path, tiny_config, wandb):
    settings = ("logging.wandb={project: digits, mode: offline}", "sample.every=6", "sample.count=4")
    config = tiny_config(*settings, "evaluate.at_end=true", "evaluate.count=20", "sample.steps=[1]")
    train(config, tmp_path / "mine", show_progress=False)
    (run,) = wandb.runs
    assert run.finished
    assert run.options["project"] == "digits" and run.options["name"] == "mine" and run.options["mode"] == "offline"
    assert run.options["config"]["model"]["name"] == "mlp"
    rows = [json.loads(line) for line in (tmp_path / "mine/metrics.jsonl").read_text().splitlines()]
    losses = [(step, values["train/loss"]) for step, values in run.logged if "train/loss" in values]
    assert losses == [(row["step"], row["loss"]) for row in rows]
    assert [step for step, values in run.logged if values.get("samples") == "image"] == [6, 12]
    assert any("evaluation/steps_1/squared_mmd" in values for _, values in run.logged)
    assert [step for step, _ in run.logged] == sorted(step for step, _ in run.logged), "steps never go back"

    longer = tiny_config(*settings, "evaluate.at_end=true", "evaluate.count=20", "sample.steps=[1]", "steps=15")
    train(longer, tmp_path / "mine", resume=True, show_progress=False)
    assert wandb.runs[1].options["id"] == run.options["id"] and wandb.runs[1].options["resume"] == "allow"


def test_without_the_settings_it_is_not_imported(tmp_path, tiny_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    train(tiny_config(), tmp_path, show_progress=False)
    assert not (tmp_path / "wandb_id.txt").exists()


def test_a_missing_package_says_how_to_get_it(tmp_path, tiny_yaml, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    words = ["train", str(tiny_yaml), "logging.wandb={project: p}", "--output", str(tmp_path / "run")]
    assert main(words) == 2
    assert "pip install 'rcgm[wandb]'" in capsys.readouterr().err


def test_a_project_is_asked_for(tiny_config):
    with pytest.raises(ConfigError, match=r"logging\.wandb\.project: missing"):
        tiny_config("logging.wandb={name: a}")
