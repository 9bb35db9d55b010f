"""The guide for contributors: what it points at is there."""

import re
from pathlib import Path

import pytest
import torch

from rcgm.cli import main
from rcgm.runs import load_run

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ROW = re.compile(
    r"^\| (?P<question>[^|]*\?) \| `(?P<file>[^`]*)` \| `(?P<name>[^`]*)` \| (?P<way>[^|]*) \|$", re.MULTILINE
)
ROWS = list(ROW.finditer(PAGE))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["question"])
def test_the_answer_is_where_the_table_says(row):
    assert row["name"] in (ROOT / row["file"]).read_text(encoding="utf-8")
    for path in re.findall(r"`((?:rcgm|rcgm_kernels|docs)/[\w/.]*)`", row["way"]):
        assert (ROOT / path).exists(), path


def test_the_questions_are_there():
    asked = " ".join(row["question"] for row in ROWS)
    for word in ("MeanFlow", "backend", "checkpoint", "NaN", "sample from a finished run", "RCGM", "my own loop"):
        assert word in asked


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:rcgm|rcgm_kernels|docs|tests|csrc)/[\w/.]*)`", PAGE))))
def test_paths_of_the_page_exist(path):
    assert (ROOT / path).exists()


def test_the_call_that_samples_a_run(tmp_path):
    (call,) = re.findall(r"`(load_run\([^`]*)`", PAGE)
    words = ["steps=1", "model.depth=1", "sample.every=0", "evaluate.at_end=false", "logging.tensorboard=false"]
    run = tmp_path / "run"
    assert main(["train", str(ROOT / "configs" / "digits.yaml"), *words, "--output", str(run)]) == 0
    names = {"load_run": load_run, "device": torch.device("cpu")}
    assert eval(call.replace("runs/digits", str(run)), names).shape == (16, 1, 8, 8)
