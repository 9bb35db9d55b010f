"""The network of a run, loaded from a checkpoint to be used."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from rcgm.config import ConfigError, TrainConfig, build_objective_from, parse_config
from rcgm.config.registries import REGISTRIES, arguments_from_data
from rcgm.data import DataInfo, Normalisation, TextInfo
from rcgm.distributed.shares import Processes
from rcgm.runs.checkpoint import STATE, Checkpoint, CheckpointError, find_checkpoints, read_checkpoint
from rcgm.runs.checkpoint_state import hash_of_content, read_state
from rcgm.runs.conditions import Captions
from rcgm.runs.folder import RunFolder
from rcgm.runs.guidance import check_guidance
from rcgm.runs.networks import build_network, check_base
from rcgm.runs.sampler import RunSampler, method_of
from rcgm.seeds import Purpose

__all__ = [
    "LoadedRun",
    "RunDescription",
    "config_of",
    "data_info_of",
    "data_info_to_plain",
    "describe_run",
    "load_run",
]

LARGEST_SAMPLE = 2**32
"""Numbers in a sample, beyond which a shape in a checkpoint is not believed."""


@dataclass(frozen=True)
class LoadedRun:
    """A trained network and what is needed to use it."""

    config: TrainConfig
    info: DataInfo
    network: nn.Module
    step: int
    autocast: torch.dtype
    device: torch.device

    def sampler(
        self,
        sampler: str = "auto",
        *,
        guidance: float = 1.0,
        seed: int = 0,
        purpose: Purpose = Purpose.SAMPLING,
        classes: Sequence[int] | None = None,
        captions: Captions | None = None,
        size: tuple[int, int] | None = None,
        processes: Processes | None = None,
    ) -> RunSampler:
        """What makes samples of the network: ``run.sampler(seed=1).draw(16, steps=2)``.

        Args:
            sampler: a key of :data:`rcgm.sampling.SAMPLERS`; "auto" is the one that the objective trains for.
            guidance, seed, purpose, classes, captions, size, processes: see :class:`~rcgm.runs.sampler.RunSampler`.

        Raises:
            ValueError: see :class:`~rcgm.runs.sampler.RunSampler`; guidance other than 1 where the run has not trained
                without classes.
        """
        check_guidance(self.config, guidance, captioned=self.info.text is not None)
        return RunSampler(
            self.network,
            self.info,
            method=method_of(build_objective_from(self.config), sampler),
            guidance=guidance,
            autocast=self.autocast,
            seed=seed,
            purpose=purpose,
            classes=classes,
            captions=captions,
            size=size,
            processes=processes,
        )


@dataclass(frozen=True)
class RunDescription:
    """A checkpoint of a run, without its network.

    Args:
        config: of the run.
        info: of its data.
        step: of the checkpoint.
        sha256: of all that is in the checkpoint.
    """

    config: TrainConfig
    info: DataInfo
    step: int
    sha256: str


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
        CheckpointError: there is no such checkpoint, it is damaged, or its adapters are of another base than there is.
        ConfigError: the base of adapters cannot be loaded.
    """
    path = _checkpoint_of(root, step)
    checkpoint = read_checkpoint(path, groups=("student", weights))
    config, info = config_of(checkpoint), data_info_of(checkpoint)
    _check_shapes(config, info, path)
    network = build_network(config, device, begin=False)
    check_base(checkpoint, network)
    checkpoint.read_into(weights if weights in checkpoint.layout else "student", network.state_dict())
    return LoadedRun(
        config,
        info,
        network.requires_grad_(False).eval(),
        checkpoint.step,
        getattr(torch, config.precision),
        device,
    )


def describe_run(root: str | os.PathLike[str], *, step: int | None = None) -> RunDescription:
    """What a checkpoint of a run says of it; its tensors are not read.

    Args:
        root: the run's folder.
        step: of the checkpoint; None for the newest.

    Raises:
        FileNotFoundError: there is no such folder.
        CheckpointError: there is no such checkpoint, or its description is damaged.
    """
    path = _checkpoint_of(root, step)
    content = read_state(path / STATE)
    checkpoint = Checkpoint(path, content["step"], content["state"], {}, ())
    return RunDescription(config_of(checkpoint), data_info_of(checkpoint), checkpoint.step, hash_of_content(content))


def _checkpoint_of(root: str | os.PathLike[str], step: int | None) -> Path:
    """The folder of the checkpoint of a step, or of the newest one."""
    folder = RunFolder(Path(root))
    if not folder.root.is_dir():
        raise FileNotFoundError(f"no run folder '{folder.root}'")
    available = {int(path.name.removeprefix("step_")): path for path in find_checkpoints(folder.checkpoints)}
    if not available:
        raise CheckpointError(f"no complete checkpoint in '{folder.checkpoints}'")
    if step is not None and step not in available:
        raise CheckpointError(f"no checkpoint of step {step} in '{folder.checkpoints}': there are {sorted(available)}")
    return available[max(available) if step is None else step]


def config_of(checkpoint: Checkpoint) -> TrainConfig:
    """The configuration of the run that a checkpoint belongs to, with today's names of keys.

    Raises:
        CheckpointError: there is none, or it cannot be used.
    """
    try:
        return parse_config(checkpoint.value("config", dict))
    except ConfigError as error:
        raise CheckpointError(f"the configuration in '{checkpoint.path / STATE}' cannot be used: {error}") from error


def data_info_of(checkpoint: Checkpoint) -> DataInfo:
    """What describes the data of the run that a checkpoint belongs to.

    Raises:
        CheckpointError: there is none, or it cannot be used.
    """
    values = checkpoint.value("data", dict)
    try:
        info = data_info_from_plain(values)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint file '{checkpoint.path / STATE}' is damaged: 'data': {error}") from error
    if math.prod(info.shape) > LARGEST_SAMPLE:
        raise CheckpointError(
            f"checkpoint file '{checkpoint.path / STATE}' is damaged: a sample has the shape {list(info.shape)}"
        )
    return info


def _check_shapes(config: TrainConfig, info: DataInfo, path: Path) -> None:
    """Raise unless the network is made for such data: it is asked for samples of their shape."""
    given = config.model.arguments
    decided = arguments_from_data(REGISTRIES["model"][config.model.name], info)
    for name in ("input_size", "in_channels", "dim"):
        if name in decided and name in given and given[name] != decided[name]:
            size = given[name]
            if name == "input_size" and isinstance(size, int) and decided[name] == [size, size]:
                continue
            raise CheckpointError(
                f"checkpoint file '{path / STATE}' is damaged: model.{name} is {size}, and samples have the shape "
                f"{list(info.shape)}"
            )


def data_info_to_plain(info: DataInfo) -> dict[str, Any]:
    """``info`` in values that JSON can hold."""
    return asdict(info)


def data_info_from_plain(values: Mapping[str, Any]) -> DataInfo:
    """Undo :func:`data_info_to_plain`, after JSON has made lists of its tuples."""
    fields = _with_tuples(values)
    if fields.get("normalisation") is not None:
        fields["normalisation"] = Normalisation(**_with_tuples(fields["normalisation"]))
    if fields.get("text") is not None:
        text = _with_tuples(fields["text"])
        fields["text"] = TextInfo(**{**text, "tensors": _with_tuples(text.get("tensors"))})
    return DataInfo(**fields)


def _with_tuples(values: Any) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise TypeError(f"it must hold a mapping, got {values!r}")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
