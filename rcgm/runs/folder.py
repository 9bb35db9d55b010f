"""A run on disk: where its files lie, how one is begun and gone on with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcgm.config import ConfigError, TrainConfig, config_to_yaml, parse_config
from rcgm.distributed.shares import Processes
from rcgm.files import write_atomically
from rcgm.runs.checkpoint import (
    Checkpoint,
    CheckpointError,
    latest_checkpoint,
    read_checkpoint,
)

__all__ = ["RunFolder"]

FREE_TO_CHANGE = (
    *("steps", "device", "compile", "workers", "parallel", "checkpoint", "logging", "sample", "evaluate"),
    *("skip_nonfinite", "skip_limit"),
)
"""What may differ when a run goes on: it does not change the numbers of a finite step but for rounding."""


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def evaluations(self) -> Path:
        return self.root / "evaluations.json"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def samples(self) -> Path:
        return self.root / "samples"

    @property
    def loss_curve(self) -> Path:
        return self.root / "loss.png"

    @property
    def film(self) -> Path:
        return self.root / "training.gif"

    @property
    def film_strip(self) -> Path:
        return self.root / "training.png"

    @property
    def summary(self) -> Path:
        return self.root / "summary.json"

    def require_no_run(self) -> None:
        """Raise unless a run may be begun here.

        Raises:
            ValueError: the folder holds checkpoints of another run.
        """
        if latest_checkpoint(self.checkpoints) is not None:
            raise ValueError(f"'{self.root}' holds a run: go on with it by --resume, or choose another --output")

    def write_config(self, config: TrainConfig) -> None:
        """Write the resolved configuration."""
        write_atomically(self.config, config_to_yaml(config))

    def resume(self, config: TrainConfig, processes: Processes | None = None) -> Checkpoint:
        """The newest checkpoint, if ``config`` may go on from it.

        Raises:
            CheckpointError: there is none, or the newest is damaged; an older one is never taken in its place.
            ConfigError: ``config`` differs from the run's in more than how long it is and what is shown of it.
        """
        path = latest_checkpoint(self.checkpoints)
        if path is None:
            raise CheckpointError(f"no complete checkpoint in '{self.checkpoints}': run without --resume to begin anew")
        checkpoint = read_checkpoint(path, processes)
        # read anew, so that what had another name or no name at the time has today's
        before = parse_config(checkpoint.state["config"]).model_dump(mode="json")
        now = config.model_dump(mode="json")
        changed = [
            difference for key in now if key not in FREE_TO_CHANGE for difference in _differences(key, before, now)
        ]
        if changed:
            raise ConfigError(f"the configuration differs from that of '{path}': {'; '.join(changed)}")
        if checkpoint.step > config.steps:
            raise ConfigError(f"steps is {config.steps}, and '{path}' is beyond that already")
        return checkpoint


def _differences(path: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    key = path.rpartition(".")[2]
    old, new = before.get(key), now.get(key)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = list(dict.fromkeys([*old, *new]))
        return [line for name in names for line in _differences(f"{path}.{name}", old, new)]
    return [] if old == new else [f"{path} was {old!r} and is {new!r}"]
