"""Runs small enough to be made many times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from rcgm.config import TrainConfig, apply_overrides, parse_config

TINY = {
    "steps": 12,
    "batch_size": 16,
    "data": {"name": "two_moons", "size": 200},
    "model": {"name": "mlp", "width": 8, "depth": 1, "frequency_size": 4},
    "objective": {"name": "rcgm", "order": 2},
    "optimizer": {"lr": 1e-2, "warmup_steps": 3},
    "ema": {"decay": 0.9},
    "checkpoint": {"every": 5, "keep": 2},
    "logging": {"every": 3, "tensorboard": False},
    "sample": {"every": 0},
    "evaluate": {"at_end": False},
}


@pytest.fixture
def tiny_config() -> Callable[..., TrainConfig]:
    """A configuration of 12 steps, with ``section.key=value`` overrides."""
    return lambda *overrides: parse_config(apply_overrides(TINY, overrides))


@pytest.fixture
def tiny_yaml(tmp_path: Path) -> Path:
    """The same as a file."""
    from rcgm.config.yaml_text import dump_yaml

    path = tmp_path / "tiny.yaml"
    path.write_text(dump_yaml(TINY))
    return path


@dataclass(frozen=True)
class Output:
    loss: Tensor


class Regression:
    """An objective without randomness: the network at fixed times against the data themselves."""

    def __call__(self, student, x, cond=None, **options) -> Output:
        times = torch.full((len(x),), 0.5)
        return Output((student(x, times, times, cond) - x).square().mean())


class Dropout(nn.Module):
    """A network that draws from torch's global generator, in training and in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 16)
        self.last = nn.Linear(16, 2)

    def forward(self, x, t, r, cond=None):
        return self.last(dropout(torch.tanh(self.first(torch.cat([x, t[:, None], r[:, None]], dim=1)))))


@pytest.fixture
def regression() -> Regression:
    return Regression()


@pytest.fixture
def dropout_network() -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return Dropout()

    return build
