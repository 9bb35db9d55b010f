"""Runs of two processes, one of which is killed at the worst moment, go on with two, one and three."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rcgm.cli import main
from rcgm.config.yaml_text import dump_yaml
from rcgm.runs.checkpoint import CheckpointError, latest_checkpoint, read_checkpoint
from tests.support.implementations import threads
from tests.support.launching import endings, finish, run_ranks, start_ranks
from tests.support.runs import train_and_die, train_in_turn, train_until_told_to_stop

TINY = {
    "steps": 12,
    "batch_size": 16,
    "accumulate": 2,
    "device": "cpu",
    "data": {"name": "two_moons", "size": 200, "labels": True},
    "model": {"name": "mlp", "width": 9, "depth": 2, "frequency_size": 4},
    "objective": {"name": "mean_flow", "derivative": {"name": "auto"}, "label_dropout": 0.3},
    "optimizer": {"lr": 1e-2, "clip_grad_norm": 1.0},
    "ema": {"decay": 0.9},
    "checkpoint": {"every": 5, "keep": 2},
    "logging": {"every": 3, "tensorboard": False},
    "sample": {"every": 12, "count": 8, "steps": [1]},
    "evaluate": {"at_end": True, "count": 50, "steps": [1]},
}
TIMES = {"images_per_second", "seconds"}

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")


class Runs:
    """The folders of the runs, and what the processes that were left said."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "tiny.yaml"
        self.config.write_text(dump_yaml(TINY))
        self.outputs: dict[str, str] = {}
        self.left: list[str] = []

    def arguments(self, name: str, *more: str) -> list[str]:
        return [str(self.config), "--output", str(self.root / name), *more]

    def kill(self, name: str, rank: int, where: str, step: int, *more: str) -> None:
        ranks = start_ranks(train_and_die, (self.arguments(name, *more), rank, where, step), 2, self.root)
        finish(ranks)
        left = ranks[1 - rank]
        assert (ranks[rank].code, left.code) == (-signal.SIGKILL, 1), endings(ranks)
        self.outputs[name] = left.output

    def rows(self, name: str) -> list[dict]:
        return [json.loads(line) for line in (self.root / name / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("runs"))
    runs.kill("in_step", 0, "step", 7)
    runs.kill("in_checkpoint", 1, "checkpoint", 10, "checkpoint.background=true")
    runs.left = sorted(path.name for path in (runs.root / "in_checkpoint/checkpoints").iterdir())
    for count in (1, 3):
        shutil.copytree(runs.root / "in_checkpoint", runs.root / f"on_{count}")
    told = start_ranks(train_until_told_to_stop, (runs.arguments("told"), 1, 5), 2, runs.root)
    finish(told)
    assert [rank.code for rank in told] == [130, 130], endings(told)
    runs.outputs["told"] = told[0].output
    resumed = (
        runs.arguments("straight"),
        runs.arguments("told", "--resume"),
        runs.arguments("in_step", "--resume"),
        runs.arguments("in_checkpoint", "--resume", "checkpoint.background=true"),
    )
    run_ranks(train_in_turn, resumed, 2, runs.root)
    run_ranks(train_in_turn, (runs.arguments("on_3", "--resume"),), 3, runs.root)
    with threads(1):  # as the ranks have
        assert main(["train", str(runs.config), "--output", str(runs.root / "on_1"), "--resume"]) == 0
        assert main(["train", str(runs.config), "--output", str(runs.root / "alone")]) == 0
    return runs


@pytest.mark.parametrize("name", ["in_step", "in_checkpoint"])
def test_the_process_that_is_left_says_what_happened(runs, name):
    output = runs.outputs[name]
    assert "another process of the run is gone" in output
    assert "the last good checkpoint is" in output and "step_00000005" in output
    assert "--resume" in output and "Traceback" not in output


def test_a_torn_checkpoint_has_no_name_of_a_whole_one(runs):
    assert runs.left == ["step_00000005", "unfinished_step_00000010"]
    for name in ("in_checkpoint", "on_1", "on_3"):
        names = sorted(path.name for path in (runs.root / name / "checkpoints").iterdir())
        assert names == ["step_00000010", "step_00000012"]


def test_a_signal_to_one_stops_all_after_the_same_step(runs):
    assert "stopped after step 7 of 12" in runs.outputs["told"]  # it came in the sixth, and had to go round


@pytest.mark.parametrize("name", ["in_step", "in_checkpoint", "told"])
def test_on_the_same_number_of_processes_it_goes_on_bit_for_bit(runs, name):
    expected = [{key: value for key, value in row.items() if key not in TIMES} for row in runs.rows("straight")]
    got = [{key: value for key, value in row.items() if key not in TIMES} for row in runs.rows(name)]
    assert expected == got
    one, two = (read_checkpoint(latest_checkpoint(runs.root / run / "checkpoints")) for run in ("straight", name))
    assert one.step == two.step == 12
    assert one.layout == two.layout and {"student", "ema", "optimizer", "objective", "random"} == set(one.layout)
    for group, named in one.tensors.items():
        for key, tensor in two.read(group).items():
            assert torch.equal(tensor, named[key]), f"{group} {key}"


@pytest.mark.parametrize("name", ["on_1", "on_3", "alone"])
def test_on_another_number_it_goes_on_to_rounding(runs, name):
    for expected, got in zip(runs.rows("straight"), runs.rows(name), strict=True):
        for key in ("step", "loss", "grad_norm", "ema_decay"):
            assert got[key] == pytest.approx(expected[key], rel=1e-3)
    one, two = (read_checkpoint(latest_checkpoint(runs.root / run / "checkpoints")) for run in ("straight", name))
    for group in ("student", "ema", "objective"):
        whole = one.read(group)
        for key, tensor in two.read(group).items():
            if key == "derivative.fitted":
                continue  # that is what rounding was measured to be
            assert torch.allclose(tensor.double(), whole[key].double(), rtol=1e-2, atol=1e-3), f"{group} {key}"
    assert sum(key.startswith("cpu.") for key in two.layout["random"]) == {"on_1": 1, "on_3": 3, "alone": 1}[name]


def test_one_process_keeps_the_records(runs):
    for name in ("straight", "on_3"):
        assert (runs.root / name / "samples/step_00000012.png").is_file()
        summary = json.loads((runs.root / name / "summary.json").read_text())
        assert summary["steps"] == 12 and summary["evaluation"]["1"]
        assert not list((runs.root / name).glob(".*.tmp"))
    assert summary["processes"] == 3


def test_the_weights_as_one_file(runs):
    output = runs.root / "weights.safetensors"
    assert main(["export", str(runs.root / "straight"), "--output", str(output), "--device", "cpu"]) == 0
    expected = read_checkpoint(latest_checkpoint(runs.root / "straight/checkpoints")).read("ema")
    got = load_file(output)
    assert got.keys() == expected.keys() and all(torch.equal(got[name], expected[name]) for name in expected)
    with safe_open(output, "pt") as file:
        assert file.metadata()["step"] == "12" and json.loads(file.metadata()["model"])["width"] == 9
    assert main(["export", str(runs.root / "straight"), "--output", str(runs.root / "weights.bin")]) == 2


def test_damage_of_a_piece_is_noticed(runs, tmp_path):
    shutil.copytree(latest_checkpoint(runs.root / "straight/checkpoints"), tmp_path / "step_00000012")
    path = tmp_path / "step_00000012/optimizer-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"optimizer-00002-of-00002\.safetensors' is damaged"):
        read_checkpoint(tmp_path / "step_00000012")
