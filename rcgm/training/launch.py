"""From a configuration to a finished run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from rcgm.config import (
    ConfigError,
    TrainConfig,
    build_dataset_from,
    build_model_from,
    build_objective_from,
    fit_to_data,
)
from rcgm.training.randomness import Purpose, mixed_seed
from rcgm.training.runs import RunFolder, choose_device
from rcgm.training.trainer import Trainer

__all__ = ["train"]


def train(
    config: TrainConfig, output: str | os.PathLike[str], *, resume: bool = False, show_progress: bool = True
) -> dict[str, Any]:
    """Run a configuration in the folder ``output`` and return its summary.

    torch's global generator is seeded from ``config.seed``: networks draw their initial weights and dropout from it.

    Args:
        config: from :func:`rcgm.config.load_config`.
        output: folder of the run; made if need be.
        resume: go on from the newest checkpoint in ``output``.
        show_progress: whether to report on stderr.

    Raises:
        ValueError: the configuration does not fit the data or the checkpoint, or ``output`` holds a run already.
        NonFiniteError, TrainingInterrupted: see :meth:`Trainer.run`.
    """
    device = choose_device(config.device)
    folder = RunFolder(Path(output))
    dataset = build_dataset_from(config)
    config = fit_to_data(config, dataset.info)
    objective = build_objective_from(config)
    if objective.needs_null_condition() and config.model.arguments.get("num_classes") is None:
        raise ConfigError(
            "objective: guidance and label_dropout need data and a model with classes (model.num_classes)"
        )
    checkpoint = folder.resume(config) if resume else None
    torch.manual_seed(mixed_seed(config.seed, Purpose.INITIALISATION))
    student = build_model_from(config).to(device)
    trainer = Trainer(
        config,
        student,
        objective,
        dataset,
        folder,
        checkpoint=checkpoint,
        show_progress=show_progress,
    )
    if checkpoint is None:
        folder.begin(config)
    else:
        folder.write_config(config)
    return trainer.run()
