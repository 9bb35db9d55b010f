"""A run that is stopped, or killed at the worst moment, goes on as if nothing had happened."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rcgm.cli import main
from rcgm.config import ConfigError, build_dataset_from, load_config
from rcgm.runs import CheckpointError, RunFolder, latest_checkpoint
from rcgm.runs.checkpoint import find_checkpoints, read_checkpoint
from rcgm.training import Trainer, TrainingInterrupted, train
from rcgm.training import step as step_module
from rcgm.training.interrupts import StopRequest
from rcgm.training.previews import Previews

TIMES = {"images_per_second", "seconds"}


def losses(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def assert_same_run(expected: Path, got: Path) -> None:
    assert losses(expected) == losses(got)
    one = read_checkpoint(latest_checkpoint(expected / "checkpoints"))
    two = read_checkpoint(latest_checkpoint(got / "checkpoints"))
    assert one.step == two.step
    assert one.tensors.keys() == two.tensors.keys()
    for group in one.tensors:
        assert one.tensors[group].keys() == two.tensors[group].keys()
        for name, tensor in one.tensors[group].items():
            assert torch.equal(tensor, two.tensors[group][name]), f"{group} {name}"
    assert one.state.get("target_ema_decay") == two.state.get("target_ema_decay")
    for key in ("ema_decay", "unreported_losses", "config"):
        assert one.state[key] == two.state[key]


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("optimizer.name=radam", "ema.decay=0"),
        ("ema.target_decay=0.5", "ema.warmup=false", "objective.network=target"),
        ("accumulate=2", "optimizer.clip_grad_norm=0.1", "ema.cast=bfloat16", "precision=bfloat16"),
        ("data.labels=true", "objective.label_dropout=0.3", "objective.guidance.scale=0.5", "ema.warmup=false"),
    ],
)
def test_resume_is_exact(tmp_path, tiny_config, overrides, monkeypatch):
    config = tiny_config(*overrides)
    train(config, tmp_path / "straight", show_progress=False)

    original = step_module.TrainStep.__call__

    def crash(self, step, *arguments, **options):
        if step == 7:  # between two checkpoints, and between two reports
            raise KeyboardInterrupt
        return original(self, step, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(step_module.TrainStep, "__call__", crash)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "stopped", show_progress=False)
    assert latest_checkpoint(tmp_path / "stopped/checkpoints").name == "step_00000005"
    train(config, tmp_path / "stopped", resume=True, show_progress=False)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


def test_resume_is_exact_with_dropout_and_pictures_in_between(tmp_path, tiny_config, dropout_network, regression):
    config = tiny_config("sample.every=2", "sample.count=4", "sample.steps=[1]", "ema.decay=0")
    plain = tiny_config("ema.decay=0")
    dataset = build_dataset_from(config)

    def trainer(name, config, **options):
        return Trainer(
            config, dropout_network(), regression, dataset, RunFolder(tmp_path / name), show_progress=False, **options
        )

    trainer("straight", plain).run()
    trainer("short", config.model_copy(update={"steps": 5})).run()
    checkpoint = read_checkpoint(latest_checkpoint(tmp_path / "short/checkpoints"))
    torch.manual_seed(99)
    trainer("short", config, checkpoint=checkpoint).run()
    final = [read_checkpoint(latest_checkpoint(tmp_path / name / "checkpoints")) for name in ("straight", "short")]
    for name, tensor in final[0].tensors["student"].items():
        assert torch.equal(tensor, final[1].tensors["student"][name])


def test_a_finished_run_may_be_made_longer(tmp_path, tiny_config):
    train(tiny_config("steps=9"), tmp_path / "long", show_progress=False)
    train(tiny_config("steps=12"), tmp_path / "long", resume=True, show_progress=False)
    train(tiny_config("steps=12"), tmp_path / "straight", show_progress=False)
    assert_same_run(tmp_path / "straight", tmp_path / "long")


def test_resuming_a_finished_run_changes_nothing(tmp_path, tiny_config):
    train(tiny_config(), tmp_path, show_progress=False)
    before = losses(tmp_path)
    summary = train(tiny_config(), tmp_path, resume=True, show_progress=False)
    assert summary["steps"] == 12
    assert losses(tmp_path) == before


def test_resume_refuses_another_configuration_and_names_the_keys(tmp_path, tiny_config):
    train(tiny_config(), tmp_path, show_progress=False)
    with pytest.raises(ConfigError, match=r"optimizer\.lr was 0\.01 and is 0\.02; *ema\.decay was 0\.9 and is 0\.5"):
        train(tiny_config("steps=20", "optimizer.lr=0.02", "ema.decay=0.5"), tmp_path, resume=True)
    with pytest.raises(ConfigError, match=r"objective\.times\.equal was 0\.0 and is 0\.5"):
        train(tiny_config("objective.times.equal=0.5"), tmp_path, resume=True)


def test_resume_refuses_to_go_backwards(tmp_path, tiny_config):
    train(tiny_config(), tmp_path, show_progress=False)
    with pytest.raises(ConfigError, match="steps is 4"):
        train(tiny_config("steps=4"), tmp_path, resume=True)


def test_resume_without_a_checkpoint_is_an_error(tmp_path, tiny_config):
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        train(tiny_config(), tmp_path, resume=True)


def test_a_run_is_not_overwritten(tmp_path, tiny_config):
    train(tiny_config(), tmp_path, show_progress=False)
    with pytest.raises(ValueError, match="--resume"):
        train(tiny_config(), tmp_path)


def test_a_damaged_newest_checkpoint_is_an_error_and_no_older_one_is_taken(tmp_path, tiny_config):
    train(tiny_config(), tmp_path, show_progress=False)
    newest = latest_checkpoint(tmp_path / "checkpoints")
    assert len(find_checkpoints(newest.parent)) == 2
    content = (newest / "optimizer.safetensors").read_bytes()
    (newest / "optimizer.safetensors").write_bytes(content[:-10])
    with pytest.raises(CheckpointError, match=r"step_00000012/optimizer\.safetensors' is damaged"):
        train(tiny_config(), tmp_path, resume=True)


def test_a_signal_stops_after_the_step_and_saves_it(tmp_path, tiny_config, monkeypatch):
    config = tiny_config()
    train(config, tmp_path / "straight", show_progress=False)
    original = step_module.TrainStep.__call__

    def interrupt(self, step, *arguments, **options):
        if step == 6:
            signal.raise_signal(signal.SIGTERM)
        return original(self, step, *arguments, **options)

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(step_module.TrainStep, "__call__", interrupt)
        with pytest.raises(TrainingInterrupted, match="stopped after step 7 of 12"):
            train(config, tmp_path / "stopped", show_progress=False)
    assert signal.getsignal(signal.SIGTERM) == handler
    assert latest_checkpoint(tmp_path / "stopped/checkpoints").name == "step_00000007"
    train(config, tmp_path / "stopped", resume=True, show_progress=False)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_warnings_of_a_terminal_or_a_scheduler_may_come_again(name):
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    with StopRequest() as stop:
        assert not stop.agreed()
        for _ in range(3):
            signal.raise_signal(getattr(signal, name))
            assert stop.agreed()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert handlers == {number: signal.getsignal(number) for number in signal.valid_signals()}


def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.agreed()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_ends_the_run_with_a_line(tmp_path, tiny_yaml, monkeypatch, capsys):
    def interrupt(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(step_module.TrainStep, "__call__", interrupt)
    assert main(["train", str(tiny_yaml), "--output", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "rcgm: error: interrupted"


def test_the_checkpoint_of_a_step_is_written_before_its_pictures(tmp_path, tiny_config, monkeypatch):
    def broken(*arguments):
        raise ValueError("no picture")

    monkeypatch.setattr(Previews, "draw", broken)
    with pytest.raises(ValueError, match="no picture"):
        train(tiny_config("sample.every=5"), tmp_path, show_progress=False)
    assert latest_checkpoint(tmp_path / "checkpoints").name == "step_00000005"


def test_two_runs_do_not_share_a_folder(tmp_path, tiny_config, monkeypatch):
    refused = []
    original = step_module.TrainStep.__call__

    def meet(self, step, *arguments, **options):
        if step in (0, 6) and len(refused) < 2:
            with pytest.raises(ValueError, match="right now") as raised:  # with a checkpoint there, and without
                train(tiny_config(), tmp_path, resume=step == 6, show_progress=False)
            refused.append(str(raised.value))
        return original(self, step, *arguments, **options)

    monkeypatch.setattr(step_module.TrainStep, "__call__", meet)
    train(tiny_config(), tmp_path, show_progress=False)
    assert len(refused) == 2
    for message in refused:
        assert re.match(rf"process {os.getpid()} on .* \(since .*\) is training in '.*' right now: let it end", message)
    assert (tmp_path / ".lock").is_file()  # which locks nothing any more
    train(tiny_config("steps=13"), tmp_path, resume=True, show_progress=False)


# Killed from outside


RUN = """
import sys, torch
torch.set_num_threads(1)
from rcgm.cli import main
sys.exit(main(sys.argv[1:]))
"""

KILL_WHILE_WRITING = """
import os, signal, sys, torch
torch.set_num_threads(1)
from rcgm.cli import main
from rcgm.runs import checkpoint
save = checkpoint.dcp.save

def save_half_and_die(content, *, storage_writer, **options):
    save(content, storage_writer=storage_writer, **options)
    if "step_00000010" in str(storage_writer.path):
        path = max(storage_writer.path.glob("*.safetensors"), key=lambda path: path.stat().st_size)
        with open(path, "r+b") as stream:
            stream.truncate(path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint.dcp.save = save_half_and_die
sys.exit(main(sys.argv[1:]))
"""


def start(program: str, *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        cwd=Path(__file__).parents[3],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_while_a_checkpoint_is_written(tmp_path, tiny_yaml):
    folder = tmp_path / "killed"
    process = start(KILL_WHILE_WRITING, "train", str(tiny_yaml), "--output", str(folder))
    process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["step_00000005", "unfinished_step_00000010"]

    train(load_config(tiny_yaml), folder, resume=True, show_progress=False)
    train(load_config(tiny_yaml), tmp_path / "straight", show_progress=False)
    assert_same_run(tmp_path / "straight", folder)
    assert not list((folder / "checkpoints").glob("unfinished_*"))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_in_the_middle_of_training(tmp_path, tiny_yaml):
    folder = tmp_path / "killed"
    # Far more steps than are made before the kill; the length of a run may change when it goes on.
    process = start(RUN, "train", str(tiny_yaml), "steps=1000000", "--output", str(folder))
    deadline = time.monotonic() + 600
    while latest_checkpoint(folder / "checkpoints") is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    process.kill()
    process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL

    reached = int(latest_checkpoint(folder / "checkpoints").name.removeprefix("step_"))
    config = load_config(tiny_yaml, [f"steps={reached + 8}"])
    train(config, folder, resume=True, show_progress=False)
    train(config, tmp_path / "straight", show_progress=False)
    assert_same_run(tmp_path / "straight", folder)
