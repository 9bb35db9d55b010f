"""A run on disk: where its files lie, how one is begun, gone on with, and loaded to sample from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from rcgm.config import ConfigError, TrainConfig, build_model_from, config_to_yaml, parse_config
from rcgm.data import DataInfo, Normalisation
from rcgm.files import write_atomically
from rcgm.shares import Processes
from rcgm.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    find_checkpoints,
    latest_checkpoint,
    read_checkpoint,
)

__all__ = ["LoadedRun", "RunFolder", "choose_device", "data_info_to_plain", "load_run"]

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


@dataclass(frozen=True)
class LoadedRun:
    """A trained network and what is needed to use it."""

    config: TrainConfig
    info: DataInfo
    network: nn.Module
    step: int
    autocast: torch.dtype
    device: torch.device

    @property
    def conditional(self) -> bool:
        """Whether the network takes classes."""
        return getattr(self.network, "num_classes", None) is not None


def load_run(
    root: str | os.PathLike[str],
    *,
    device: torch.device,
    step: int | None = None,
    weights: Literal["ema", "student"] = "ema",
) -> LoadedRun:
    """Load the network of a run from a checkpoint; the data are not needed.

    Args:
        root: the run's folder.
        device: where the network goes.
        step: of the checkpoint; None for the newest.
        weights: the average, or the student itself. A run without an average gives the student for both.

    Raises:
        FileNotFoundError: there is no such folder.
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    folder = RunFolder(Path(root))
    if not folder.root.is_dir():
        raise FileNotFoundError(f"no run folder '{folder.root}'")
    available = {int(path.name.removeprefix("step_")): path for path in find_checkpoints(folder.checkpoints)}
    if not available:
        raise CheckpointError(f"no complete checkpoint in '{folder.checkpoints}'")
    if step is not None and step not in available:
        raise CheckpointError(f"no checkpoint of step {step} in '{folder.checkpoints}': there are {sorted(available)}")
    checkpoint = read_checkpoint(available[max(available) if step is None else step])
    config = parse_config(checkpoint.state["config"])
    info = data_info_from_plain(checkpoint.state["data"])
    network = build_model_from(config).to(device)
    checkpoint.read_into(weights if weights in checkpoint.layout else "student", network.state_dict())
    return LoadedRun(
        config,
        info,
        network.requires_grad_(False).eval(),
        checkpoint.step,
        getattr(torch, config.precision),
        device,
    )


def choose_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one.

    Raises:
        ValueError: ``cuda`` where there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', and torch finds no CUDA device here; use auto or cpu")
    use_cuda = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    # The index is written out, as a tensor's device has one and devices are compared.
    return torch.device("cuda", torch.cuda.current_device()) if use_cuda else torch.device("cpu")


def data_info_to_plain(info: DataInfo) -> dict[str, Any]:
    """``info`` in values that JSON can hold."""
    return asdict(info)


def data_info_from_plain(values: Mapping[str, Any]) -> DataInfo:
    """Undo :func:`data_info_to_plain`, after JSON has made lists of its tuples."""
    fields = _with_tuples(values)
    if fields.get("normalisation") is not None:
        fields["normalisation"] = Normalisation(**_with_tuples(fields["normalisation"]))
    return DataInfo(**fields)


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _differences(path: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    key = path.rpartition(".")[2]
    old, new = before.get(key), now.get(key)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = list(dict.fromkeys([*old, *new]))
        return [line for name in names for line in _differences(f"{path}.{name}", old, new)]
    return [] if old == new else [f"{path} was {old!r} and is {new!r}"]
