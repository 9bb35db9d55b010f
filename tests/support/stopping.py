"""Runs that are stopped in the middle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rcgm.config import TrainConfig
from rcgm.training import step as step_module
from rcgm.training import train


def train_and_stop(
    config: TrainConfig,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    at: int,
    look: Callable[..., Any] = lambda *arguments: None,
) -> None:
    """Train until step number ``at`` begins; ``look`` is given the arguments of every step, that one included."""
    original = step_module.TrainStep.__call__

    def stop(self, step, *arguments, **options):
        look(step, *arguments)
        if step == at:
            raise KeyboardInterrupt
        return original(self, step, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(step_module.TrainStep, "__call__", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config, folder, show_progress=False)
