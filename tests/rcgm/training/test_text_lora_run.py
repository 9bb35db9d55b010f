"""Adapters on a published network, trained on encoded pairs from a configuration."""

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("peft")

from rcgm.cli import main
from rcgm.config import ConfigError, parse_config
from rcgm.config.yaml_text import dump_yaml
from rcgm.data import EncodedPairs
from rcgm.roles import Role, base_of
from rcgm.runs import latest_checkpoint, load_run, read_checkpoint
from rcgm.runs.conditions import DataCaptions
from rcgm.training import train
from tests.support.launching import run_ranks
from tests.support.runs import train_in_turn
from tests.support.same_run import losses
from tests.support.text_run import text_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """RCGM distilled from the published network, which is the base in half precision."""
    plain = text_run(tmp_path_factory.mktemp("pairs"))
    return {
        **plain,
        "model": {**plain["model"], "dtype": "bfloat16"},
        "tune": "lora",
        "lora": {"rank": 2, "alpha": 2},
        "objective": {"name": "rcgm", "order": 2, "supervision": "teacher", "label_dropout": 0.3},
        "teacher": {"base": True},
    }


def test_a_run_goes_on_exactly_and_is_sampled(tmp_path, values):
    config = parse_config(values)
    train(config, tmp_path / "straight", show_progress=False)
    train(parse_config({**values, "steps": 4, "sample": {"every": 0}}), tmp_path / "stopped", show_progress=False)
    train(config, tmp_path / "stopped", resume=True, show_progress=False)
    one, two = (
        read_checkpoint(latest_checkpoint(tmp_path / name / "checkpoints")).tensors for name in ("straight", "stopped")
    )
    for group, tensors in one.items():
        assert all(torch.equal(tensor, two[group][name]) for name, tensor in tensors.items()), group
    assert losses(tmp_path / "straight") == losses(tmp_path / "stopped")
    run = load_run(tmp_path / "straight", device=CPU)
    assert isinstance(run.network, Role)
    assert {tensor.dtype for tensor in one["student"].values()} == {torch.float32}
    assert base_of(run.network).transformer.dtype == torch.bfloat16
    captions = DataCaptions(EncodedPairs(values["data"]["path"]))
    assert run.sampler(captions=captions).draw(3, steps=2).isfinite().all()
    assert (tmp_path / "straight/samples/step_00000009.png").is_file()


def test_two_processes_make_the_run_of_one(tmp_path, values):
    # in float32, and with a large eps, by which a step is proportional to the gradient: rounding stays what it is
    changed = {
        "model": {**values["model"], "dtype": "float32"},
        "optimizer": {"lr": 0.1, "eps": 1.0},
        "parallel": {"activation_checkpointing": "full"},
        "steps": 6,
        "sample": {"every": 0},
    }
    config = tmp_path / "text.yaml"
    config.write_text(dump_yaml({**values, **changed}))
    assert main(["train", str(config), "--output", str(tmp_path / "one")]) == 0
    run_ranks(train_in_turn, ([str(config), "--output", str(tmp_path / "two")],), 2, tmp_path)
    for row, own in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert row["loss"] == pytest.approx(own["loss"], rel=1e-4)
        assert row["grad_norm"] == pytest.approx(own["grad_norm"], rel=1e-4)
    one, two = (read_checkpoint(latest_checkpoint(tmp_path / name / "checkpoints")) for name in ("one", "two"))
    for group in ("student", "ema"):
        assert any(tensor.any() for key, tensor in one.tensors[group].items() if key.endswith("lora_B.weight"))
        for key, tensor in one.tensors[group].items():
            torch.testing.assert_close(tensor, two.tensors[group][key], rtol=1e-4, atol=1e-5)


def test_a_teacher_that_predicts_something_else_is_refused(tmp_path, values):
    config = parse_config({**values, "objective": {**values["objective"], "transport": "trigflow"}})
    with pytest.raises(ConfigError, match=r"teacher\.base: published networks predict under the transport linear"):
        train(config, tmp_path, show_progress=False)
