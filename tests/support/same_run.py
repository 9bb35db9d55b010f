"""Whether two runs made the same numbers."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from rcgm.runs import latest_checkpoint
from rcgm.runs.checkpoint import read_checkpoint

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
