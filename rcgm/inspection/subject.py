"""What is inspected: the network and the data of a configuration, or of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.config import (
    TrainConfig,
    apply_overrides,
    build_dataset_from,
    build_objective_from,
    fit_to_data,
    load_config,
    parse_config,
)
from rcgm.data import BatchStream
from rcgm.engine import conditions
from rcgm.objectives import Objective
from rcgm.roles import base_of
from rcgm.runs import load_run
from rcgm.runs.conditions import takes_condition
from rcgm.runs.networks import build_network
from rcgm.seeds import Purpose, seed_of
from rcgm.training.teacher import initialise_from, load_teacher

__all__ = ["Subject", "subject_of_config", "subject_of_run"]


@dataclass(frozen=True)
class Subject:
    """A network, its data, and the configuration that they come from.

    Args:
        name: for people.
        config: fitted to the data.
        network: on the device that was asked for.
        dataset: with an ``info``.
        objective: of the configuration.
    """

    name: str
    config: TrainConfig
    network: nn.Module
    dataset: Any
    objective: Objective

    @property
    def target_format(self) -> str:
        """The number format of the forwards without gradient: float32, bfloat16 or float16."""
        return getattr(self.objective, "target_dtype", None) or self.config.precision

    def batch(self, count: int) -> tuple[Tensor, Any]:
        """``count`` samples ``[count, ...]`` of the data and their conditions, on the device of the network.

        Raises:
            ValueError: the data set has fewer samples of one shape.
        """
        x, labels = BatchStream(self.dataset, count, self.config.seed)[0]
        device = next(base_of(self.network).parameters()).device
        return x.to(device), conditions.moved(
            labels if takes_condition(self.network, self.dataset.info) else None, device
        )


def subject_of_config(path: str | Path, overrides: Sequence[str], device: torch.device) -> Subject:
    """The network of a configuration with its initial weights, those of ``init_from`` or the teacher where it says so.

    Raises:
        FileNotFoundError, ConfigError: the configuration, or what it names, cannot be used.
    """
    config = load_config(path, overrides)
    dataset = build_dataset_from(config)
    config = fit_to_data(config, dataset.info)
    objective = build_objective_from(config)
    torch.manual_seed(seed_of(config.seed, Purpose.INITIAL_WEIGHTS))
    network = build_network(config, device, begin=True)
    if config.teacher is not None and config.teacher.initialise_student:
        classes = config.model.arguments.get("num_classes")
        initialise_from(
            load_teacher(config.teacher, objective, dataset.info, num_classes=classes, device=device), network
        )
    return Subject(str(path), config, network, dataset, objective)


def subject_of_run(
    root: Path, overrides: Sequence[str], device: torch.device, *, step: int | None = None, weights: str = "ema"
) -> Subject:
    """The network of a run. ``overrides`` may change what is computed with its weights, such as ``precision``.

    Raises:
        FileNotFoundError, CheckpointError, ConfigError: the run cannot be read, or an override does not go with it.
    """
    run = load_run(root, device=device, step=step, weights=weights)
    config = parse_config(apply_overrides(run.config.model_dump(mode="json"), overrides))
    network = run.network
    if config.model != run.config.model:
        network = build_network(config, device, begin=False)
        try:
            network.load_state_dict(run.network.state_dict())
        except RuntimeError as error:
            raise ValueError(
                f"model must keep the shapes of the run's weights: {' '.join(str(error).split())}"
            ) from error
    return Subject(
        f"{root}, step {run.step}", config, network, build_dataset_from(config), build_objective_from(config)
    )
