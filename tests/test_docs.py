"""The page on adding an objective: its file is short, and what it says works."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

from rcgm.cli import main
from rcgm.config import load_config
from rcgm.objectives import OBJECTIVES
from rcgm.objectives.times import Times

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "add_an_objective.md"


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """The page's file, imported and registered as the page says."""
    code, registration = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(code.splitlines()) < 40
    assert re.findall(r"^(?:from|import) (rcgm\S*)", code, re.MULTILINE) == ["rcgm.objectives"]
    (tmp_path / "split_mean_flow.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "split_mean_flow", raising=False)
    objective = importlib.import_module("split_mean_flow").SplitMeanFlow
    assert registration == f'OBJECTIVES["split_mean_flow"] = {objective.__name__}\n'
    monkeypatch.setitem(OBJECTIVES, "split_mean_flow", objective)
    return objective


@pytest.mark.parametrize("split", [0.5, 0.2])
def test_its_residual_vanishes_at_the_exact_network(toy, split):
    def network(x, t, r, cond=None):  # data that are all 2: every state moves straight towards it
        return ((x - 2) / t.clamp(min=1e-9)[:, None]).requires_grad_(torch.is_grad_enabled())

    x = torch.full((64, 3), 2.0, dtype=torch.float64)
    t = torch.linspace(0.1, 1, 64, dtype=torch.float64)
    times = Times(t, torch.cat([t[:16], t[16:] / 3]), 16)
    assert toy(split=split)(network, x, times=times).loss < 1e-24
    assert toy(split=split)(lambda *point: 1.1 * network(*point), x, times=times).loss > 1e-3


def test_it_trains_from_the_command_line(toy, tmp_path):
    words = ["objective={name: split_mean_flow, split: 0.25}", "steps=4", "data.size=200", "batch_size=16",
             "model.width=16", "sample.every=0", "evaluate.at_end=false", "logging.tensorboard=false"]  # fmt: skip
    config = Path(__file__).parents[1] / "configs" / "moons.yaml"
    assert main(["train", str(config), *words, "--output", str(tmp_path / "run")]) == 0
    assert "split: 0.25" in (tmp_path / "run" / "config.yaml").read_text()


def test_the_table_of_methods_has_every_objective():
    row = re.compile(r"^\| .*https://.* \| `(?P<cls>\w+)` \| `(?P<name>\w+)` \| (?P<configs>.*) ?\|$", re.MULTILINE)
    rows = list(row.finditer((DOCS / "methods.md").read_text()))
    assert {found["name"]: found["cls"] for found in rows} == {name: cls.__name__ for name, cls in OBJECTIVES.items()}
    for found in rows:
        for config in re.findall(r"`(\w+)`", found["configs"]):
            loaded = load_config(DOCS.parent / "configs" / f"{config}.yaml")
            assert loaded.objective.name == found["name"]
