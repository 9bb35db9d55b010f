"""A run that is stopped goes on as if nothing had happened, and refuses what it cannot go on with."""

import os
import re

import pytest
import torch

from rcgm.config import ConfigError, build_dataset_from
from rcgm.runs import CheckpointError, RunFolder, latest_checkpoint
from rcgm.runs.checkpoint import find_checkpoints, read_checkpoint
from rcgm.training import Trainer, train
from rcgm.training import step as step_module
from rcgm.training.previews import Previews
from tests.support.same_run import assert_same_run, losses
from tests.support.stopping import train_and_stop


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("optimizer.name=radam", "ema.decay=0"),
        ("ema.target_decay=0.5", "ema.warmup=false", "objective.network=target"),
        ("accumulate=2", "optimizer.clip_grad_norm=0.1", "ema.cast=bfloat16", "precision=bfloat16"),
        ("objective={name: alpha_flow, alpha: {end: 10, sharpness: 5}}",),
        (
            "objective={name: improved_mean_flow, guidance: {name: input}, label_dropout: 0.3}",
            "data.labels=true",
            "model.guidance_input=true",
        ),
        ("objective={name: twinflow, order: 1, self_adversarial: {weight: 1}}",),
        ("objective={name: tim, self_adversarial: {fraction: 0.2}}", "accumulate=2"),
        ("data.labels=true", "objective.label_dropout=0.3", "objective.guidance.scale=0.5", "ema.warmup=false"),
    ],
)
def test_resume_is_exact(tmp_path, tiny_config, overrides, monkeypatch):
    config = tiny_config(*overrides)
    train(config, tmp_path / "straight", show_progress=False)
    # between two checkpoints, and between two reports
    train_and_stop(config, tmp_path / "stopped", monkeypatch, at=7)
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
