"""A run on disk: where its files lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rcgm.config import TrainConfig, config_to_yaml, load_config
from rcgm.distributed.shares import Processes
from rcgm.files import write_atomically
from rcgm.runs.checkpoint import (
    Checkpoint,
    CheckpointError,
    latest_checkpoint,
    read_checkpoint,
)

__all__ = ["RunFolder"]


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
        """Raise unless a run may be begun here. What a run left before its first checkpoint may be written over.

        Raises:
            ValueError: the folder holds checkpoints of another run, or files that no run has written.
        """
        if latest_checkpoint(self.checkpoints) is not None:
            raise ValueError(f"'{self.root}' holds a run: go on with it by --resume, or choose another --output")
        ours = (self.config, self.metrics, self.evaluations, self.summary, self.loss_curve, self.film, self.film_strip)
        found = [path.name for path in (*ours, self.samples, self.tensorboard) if path.exists()]
        if found and not self._is_ours():
            raise ValueError(
                f"'{self.root}' holds files that no run has written ({', '.join(found)}): move them, or choose another "
                "--output"
            )

    def _is_ours(self) -> bool:
        """Whether a run has begun here: it leaves a lock file, and a configuration that can be read."""
        if self.lock.is_file():
            return True
        try:
            load_config(self.config)
        except (OSError, ValueError):
            return False
        return True

    def write_config(self, config: TrainConfig) -> None:
        """Write the resolved configuration."""
        write_atomically(self.config, config_to_yaml(config))

    def newest(self, processes: Processes | None = None) -> Checkpoint:
        """The newest checkpoint, verified.

        Raises:
            CheckpointError: there is none, or the newest is damaged; an older one is never taken in its place.
        """
        path = latest_checkpoint(self.checkpoints)
        if path is None:
            raise CheckpointError(
                f"no complete checkpoint in '{self.checkpoints}': run without --resume to start a run"
            )
        return read_checkpoint(path, processes)
