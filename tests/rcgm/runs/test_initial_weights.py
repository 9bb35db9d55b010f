"""Runs that begin from weights of files."""

import re

import pytest
import torch

from rcgm.cli import main
from rcgm.config import ConfigError, parse_config
from rcgm.models import load_pretrained
from rcgm.models.published import initialise
from rcgm.runs import load_run, read_checkpoint
from rcgm.training import train
from tests.support.published_networks import Published

CPU = torch.device("cpu")
DIT = {"name": "dit", "patch_size": 2, "hidden_size": 16, "depth": 1, "num_heads": 2, "time_scale": 1.0}
PUBLISHED = {"side": 8, "patch": 2, "channels": 1, "size": 16, "depth": 1, "heads": 2, "classes": 10}


def config_of(**sections):
    values = {
        "steps": 2,
        "batch_size": 4,
        "data": {"name": "digits"},
        "model": DIT,
        "objective": {"name": "flow_matching"},
        "optimizer": {"lr": 1e-6},
        "ema": {"decay": 0.0},
        "checkpoint": {"every": 1},
        "logging": {"tensorboard": False},
        "sample": {"every": 0},
        "evaluate": {"at_end": False},
    }
    return parse_config({**values, **sections})


def assert_close_to(network, expected):
    tensors = network.state_dict()
    assert tensors.keys() == expected.keys()
    for name in tensors:
        torch.testing.assert_close(tensors[name], expected[name], rtol=0, atol=1e-5)


def test_from_published_weights_and_on_from_what_was_exported(tmp_path):
    torch.save({"ema": Published(**PUBLISHED).state_dict()}, tmp_path / "sit.pt")
    config = config_of(init_from={"path": str(tmp_path / "sit.pt"), "layout": "sit"})
    train(config, tmp_path / "run", show_progress=False)
    run = load_run(tmp_path / "run", device=CPU)
    expected = load_run(tmp_path / "run", device=CPU).network
    initialise(expected, tmp_path / "sit.pt", "sit")
    assert_close_to(run.network, expected.state_dict())
    assert expected.blocks[0].attn.qkv.weight.std() > 0.05

    # Not read again by a run that goes on.
    (tmp_path / "sit.pt").unlink()
    train(config.model_copy(update={"steps": 3}), tmp_path / "run", resume=True, show_progress=False)

    for target in ("hub", "weights.safetensors"):
        assert main(["export", str(tmp_path / "run"), "--output", str(tmp_path / target)]) == 0
        begun = config_of(init_from={"path": str(tmp_path / target), "layout": "rcgm"})
        train(begun, tmp_path / f"from {target}", show_progress=False)
        assert_close_to(load_run(tmp_path / f"from {target}", device=CPU).network, expected.state_dict())
    again = load_pretrained(tmp_path / "hub")
    checkpoint = read_checkpoint(tmp_path / "run" / "checkpoints" / "step_00000003")
    assert all(torch.equal(tensor, checkpoint.tensors["student"][name]) for name, tensor in again.state_dict().items())
    assert main(["export", str(tmp_path / "run"), "--output", str(tmp_path / "hub")]) == 2


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {**DIT, "time_scale": 10.0}}, "init_from: time_scale must be 1.0 for weights of layout 'sit'"),
        ({"model": {**DIT, "depth": 2}}, "init_from: these weights do not fit the network (tensors missing: blocks.1."),
        ({"objective": {"name": "flow_matching", "transport": "vp"}}, "set objective.transport=linear"),
        ({"model": {"name": "mlp"}, "data": {"name": "two_moons"}}, "init_from: network must be a DiT, got MLP"),
    ],
)
def test_weights_that_do_not_fit(sections, message, tmp_path):
    torch.save(Published(**PUBLISHED).state_dict(), tmp_path / "sit.pt")
    config = config_of(**{"init_from": {"path": str(tmp_path / "sit.pt"), "layout": "sit"}, **sections})
    with pytest.raises(ConfigError, match=re.escape(message)):
        train(config, tmp_path / "run", show_progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "none.pt", "layout": "sit"}, "init_from: no file of weights 'none.pt'"),
        ({"path": "none", "layout": "rcgm"}, "init_from: no file of weights 'none'"),
    ],
)
def test_files_that_are_not_there(settings, message, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(message)):
        train(config_of(init_from=settings), tmp_path / "run", show_progress=False)


def test_configurations_that_are_refused():
    with pytest.raises(ConfigError, match=r"init_from\.layout: .*'rcgm', 'dit', 'sit' or 'lightningdit'"):
        config_of(init_from={"path": "a", "layout": "uvit"})
    with pytest.raises(ConfigError, match=r"init_from must be left out with teacher\.initialise_student"):
        config_of(init_from={"path": "a", "layout": "sit"}, teacher={"run": "b", "initialise_student": True})
