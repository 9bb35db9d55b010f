"""A run is used with what a checkpoint holds of it, and a checkpoint that cannot be is named."""

import json
from pathlib import Path

import pytest
import torch

from rcgm.config import parse_config
from rcgm.runs import CheckpointError, latest_checkpoint, load_run
from rcgm.runs.checkpoint_state import hash_of_content
from rcgm.training import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = {
        "steps": 2,
        "batch_size": 4,
        "data": {"name": "two_moons", "size": 50, "labels": True},
        "model": {"name": "mlp", "width": 8, "depth": 1},
        "objective": {"name": "rcgm"},
        "logging": {"tensorboard": False},
        "sample": {"every": 0},
        "evaluate": {"at_end": False},
    }
    train(parse_config(config), folder, show_progress=False)
    return folder


@pytest.fixture
def state(run):
    """Path of state.json, which is put back afterwards."""
    path = latest_checkpoint(run / "checkpoints") / "state.json"
    content = path.read_text()
    yield path
    path.write_text(content)


def rewrite(path: Path, change) -> None:
    content = json.loads(path.read_text())
    del content["sha256"]
    change(content["state"])
    path.write_text(json.dumps({**content, "sha256": hash_of_content(content)}))


def test_sampling_needs_no_state_of_the_optimizer(run, tmp_path):
    expected = load_run(run, device=CPU).sampler(seed=3).draw(5, steps=2)
    folder = latest_checkpoint(run / "checkpoints")
    kept = folder / "optimizer.safetensors"
    hidden = kept.rename(tmp_path / "hidden")
    try:
        for weights in ("ema", "student"):
            assert load_run(run, device=CPU, weights=weights).step == 2
        assert torch.equal(load_run(run, device=CPU).sampler(seed=3).draw(5, steps=2), expected)
    finally:
        hidden.rename(kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("config"), "'config' is missing"),
        (lambda state: state.update(config=[1]), r"'config' is \[1\]"),
        (lambda state: state["config"].pop("model"), "the configuration in .* cannot be used: model: missing"),
        (lambda state: state.pop("data"), "'data' is missing"),
        (lambda state: state.update(data={}), "'data': .*missing"),
        (lambda state: state["data"].update(shape=[-2]), "'data': each size in shape must be at least 1, got -2"),
        (lambda state: state["data"].update(shape="2"), "'data': shape"),
        (lambda state: state["data"].update(shape=[2**40]), r"a sample has the shape \[1099511627776\]"),
        (lambda state: state["data"].update(shape=[3]), r"model\.dim is 2, and samples have the shape \[3\]"),
        (lambda state: state["data"].update(surprise=1), "'data': .*surprise"),
    ],
)
def test_a_damaged_state_is_named(run, state, change, message):
    rewrite(state, change)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_run(run, device=CPU)
    assert str(state) in str(raised.value)


def test_guidance_needs_a_network_that_was_trained_without_classes_too(run):
    loaded = load_run(run, device=CPU)
    with pytest.raises(ValueError, match=r"guidance must be 1 .* trained with objective\.label_dropout 0, got 2"):
        loaded.sampler(guidance=2.0)
