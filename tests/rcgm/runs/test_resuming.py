"""A run goes on with its own data and configuration, and with what it was asked to change."""

import numpy as np
import pytest

from rcgm.config import ConfigError, apply_overrides, parse_config
from rcgm.runs import latest_checkpoint, read_checkpoint, save_checkpoint
from rcgm.training import train

CONFIG = {
    "steps": 4,
    "batch_size": 8,
    "data": {"name": "arrays"},
    "model": {"name": "mlp", "width": 8, "depth": 1, "frequency_size": 4},
    "objective": {"name": "flow_matching"},
    "checkpoint": {"every": 2, "keep": 9},
    "logging": {"every": 2, "tensorboard": False},
    "sample": {"every": 0},
    "evaluate": {"at_end": False},
}


def write_points(path, seed=0, count=40, labels=None):
    path.parent.mkdir(exist_ok=True)
    np.save(path, np.random.default_rng(seed).standard_normal((count, 2)).astype(np.float32))
    if labels is not None:
        np.save(path.with_name("labels.npy"), np.asarray(labels))
    return path


def config(path, *overrides):
    return parse_config(apply_overrides(CONFIG, [f"data.path={path}", *overrides]))


@pytest.fixture
def run(tmp_path):
    points = write_points(tmp_path / "data" / "x.npy")
    train(config(points), tmp_path / "run", show_progress=False)
    return tmp_path / "run", points


def state_of(folder):
    return read_checkpoint(latest_checkpoint(folder / "checkpoints")).state


@pytest.mark.parametrize(
    ("replacement", "message"),
    [
        ({"seed": 1}, "content of some samples differs"),
        ({"count": 41}, "samples was 40 and is 41"),
    ],
)
def test_other_data_are_refused(run, replacement, message):
    folder, points = run
    write_points(points, **replacement)
    with pytest.raises(ConfigError, match=rf"the data differ from those of '.*step_00000004': .*{message}.*: restore"):
        train(config(points, "steps=6"), folder, resume=True, show_progress=False)
    write_points(points)
    train(config(points, "steps=6"), folder, resume=True, show_progress=False)


def test_data_may_move_if_that_is_said(run, tmp_path):
    folder, points = run
    moved = write_points(tmp_path / "elsewhere" / "x.npy")
    with pytest.raises(ConfigError, match=r"data\.path was .*; can be allowed: --allow-change data\.path"):
        train(config(moved, "steps=6"), folder, resume=True, show_progress=False)
    train(config(moved, "steps=6"), folder, resume=True, allow_changes=["data.path"], show_progress=False)
    (change,) = state_of(folder)["changes"]
    assert change == {"step": 4, "key": "data.path", "before": str(points), "now": str(moved)}


def test_changes_are_recorded_one_after_another_and_take_effect(run):
    folder, points = run
    train(config(points, "steps=6", "optimizer.lr=0.5"), folder, resume=True, allow_changes=["optimizer.lr"],
          show_progress=False)  # fmt: skip
    summary = train(
        config(points, "steps=8", "optimizer.lr=0.5", "optimizer.clip_grad_norm=0.1"),
        folder,
        resume=True,
        allow_changes=["optimizer.clip_grad_norm"],
        show_progress=False,
    )
    assert summary["final"]["lr"] == 0.5
    assert [(change["step"], change["key"], change["now"]) for change in state_of(folder)["changes"]] == [
        (4, "optimizer.lr", 0.5),
        (6, "optimizer.clip_grad_norm", 0.1),
    ]


def test_what_changes_the_meaning_cannot_be_allowed(run):
    folder, points = run
    with pytest.raises(ConfigError, match=r"allow_changes must name any of .*optimizer\.lr.*; got 'ema\.decay'"):
        train(config(points, "ema.decay=0.5"), folder, resume=True, allow_changes=["ema.decay"], show_progress=False)
    with pytest.raises(
        ConfigError, match=r"ema\.decay was 0\.999 and is 0\.5; can be allowed: --allow-change optimizer"
    ):
        train(config(points, "ema.decay=0.5", "optimizer.lr=1.0"), folder, resume=True, show_progress=False)


def test_a_checkpoint_without_a_fingerprint_is_compared_by_what_it_holds(tmp_path):
    points = write_points(tmp_path / "data" / "x.npy", labels=[0, 1] * 20)
    labels = f"data.labels_path={points.with_name('labels.npy')}"
    train(config(points, labels), tmp_path / "run", show_progress=False)
    checkpoint = read_checkpoint(latest_checkpoint(tmp_path / "run/checkpoints"))
    state = {key: value for key, value in checkpoint.state.items() if key not in ("data_fingerprint", "changes")}
    save_checkpoint(tmp_path / "run/checkpoints", 4, checkpoint.tensors, state, keep=1)
    train(config(points, labels, "steps=5"), tmp_path / "run", resume=True, show_progress=False)
    save_checkpoint(tmp_path / "run/checkpoints", 5, checkpoint.tensors, {**state, "data": {"shape": [3]}}, keep=1)
    with pytest.raises(ConfigError, match=r"shape was \[3\] and is \[2\]"):
        train(config(points, labels, "steps=6"), tmp_path / "run", resume=True, show_progress=False)
