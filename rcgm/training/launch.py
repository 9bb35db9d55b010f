"""From a configuration to a finished run."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rcgm.config import (
    ConfigError,
    TrainConfig,
    build_dataset_from,
    build_model_from,
    build_objective_from,
    fit_to_data,
)
from rcgm.data import DataInfo, data_fingerprint, describe_data
from rcgm.distributed import running_processes
from rcgm.distributed.device import choose_device
from rcgm.distributed.shares import Processes
from rcgm.runs.changes import check_requests
from rcgm.runs.checkpoint import Checkpoint
from rcgm.runs.folder import RunFolder
from rcgm.runs.guidance import check_guidance
from rcgm.runs.lock import held_alone
from rcgm.runs.networks import base_note, build_network, check_base
from rcgm.runs.resuming import check_resumable
from rcgm.seeds import Purpose, seed_of
from rcgm.training.teacher import Teacher, initialise_from, load_teacher, teacher_before
from rcgm.training.trainer import Trainer
from rcgm.training.trial import check_shapes

__all__ = ["train"]

COMPILED_FORMS = 64
"""Compiled forms of one block, beyond which torch runs it without compilation: there is one for each role, with and
without gradients, for each kind of block that shares its code, and for batches of other sizes."""


def train(
    config: TrainConfig,
    output: str | os.PathLike[str],
    *,
    resume: bool = False,
    allow_changes: Sequence[str] = (),
    show_progress: bool = True,
) -> dict[str, Any]:
    """Run a configuration in the folder ``output`` and return its summary.

    torch's global generator is seeded from ``config.seed``: networks draw their initial weights and dropout from it.
    Started by torchrun, the processes train together (:mod:`rcgm.distributed`).

    Args:
        config: from :func:`rcgm.config.load_config`.
        output: folder of the run; made if need be.
        resume: go on from the newest checkpoint in ``output``.
        allow_changes: keys of the configuration that may differ from the run's when it goes on, of
            :data:`rcgm.runs.changes.ON_REQUEST`; the checkpoints record what has changed.
        show_progress: whether to report on stderr.

    Raises:
        ValueError: the configuration or the data do not fit one another or the checkpoint, or ``output`` holds a run
            already, be it one that another process trains right now, or files that no run has written.
        NonFiniteError, ProcessLostError, TrainingInterrupted: see :meth:`Trainer.run`.
    """
    with running_processes(config.device) as processes, contextlib.ExitStack() as stack:
        show_progress = show_progress and processes.is_main
        folder = RunFolder(Path(output))
        return _train(
            config, folder, processes, stack, resume=resume, allow_changes=allow_changes, show_progress=show_progress
        )


def _train(
    config: TrainConfig,
    folder: RunFolder,
    processes: Processes,
    stack: contextlib.ExitStack,
    *,
    resume: bool,
    allow_changes: Sequence[str],
    show_progress: bool,
) -> dict[str, Any]:
    device = choose_device(config.device)
    check_requests(allow_changes)
    checkpoint = None
    if config.compile:
        stack.enter_context(torch._dynamo.config.patch(recompile_limit=COMPILED_FORMS))
    if resume:
        if folder.root.is_dir():
            stack.enter_context(held_alone(folder.lock, processes))
        checkpoint = folder.newest(processes)
    else:
        folder.require_no_run()
    dataset = build_dataset_from(config)
    if show_progress:
        print("\n".join(describe_data(dataset)), file=sys.stderr)
    config = fit_to_data(config, dataset.info)
    # What an objective learns may begin with random weights of its own.
    torch.manual_seed(seed_of(config.seed, Purpose.OBJECTIVE_WEIGHTS))
    objective = build_objective_from(config)
    captioned = dataset.info.text is not None
    if objective.needs_null_condition() and config.model.arguments.get("num_classes") is None and not captioned:
        raise ConfigError(
            "objective: guidance and label_dropout need data with captions, or data and a model with classes "
            "(model.num_classes)"
        )
    for name, settings, used in (
        ("sample", config.sample, config.sample.every),
        ("evaluate", config.evaluate, config.evaluate.every or config.evaluate.at_end),
    ):
        if used:
            check_guidance(config, settings.guidance, f"{name}.guidance", captioned=captioned)
    notes: dict[str, Any] = {"data_fingerprint": data_fingerprint(dataset)}
    if checkpoint is not None:
        notes["changes"] = check_resumable(checkpoint, config, notes["data_fingerprint"], allow_changes=allow_changes)
    check_shapes(lambda: build_model_from(config), dataset)
    student, teacher = _networks(config, objective, dataset.info, device, checkpoint, show_progress)
    notes |= base_note(student)
    trainer = Trainer(
        config,
        student,
        objective,
        dataset,
        folder,
        teacher=teacher,
        checkpoint=checkpoint,
        processes=processes,
        show_progress=show_progress,
        notes=notes,
    )
    if checkpoint is None:
        stack.enter_context(held_alone(folder.lock, processes))
    if processes.is_main:
        folder.write_config(config)
    return trainer.run()


def _networks(
    config: TrainConfig,
    objective: Any,
    info: DataInfo,
    device: torch.device,
    checkpoint: Checkpoint | None,
    show_progress: bool,
) -> tuple[nn.Module, Teacher | None]:
    """Student and teacher, before the checkpoint is read."""
    settings, teacher = config.teacher, None
    if settings is not None and not settings.base:
        teacher = load_teacher(
            settings,
            objective,
            info,
            num_classes=config.model.arguments.get("num_classes"),
            device=device,
            step=None if checkpoint is None else checkpoint.value("teacher_step", (int, type(None))),
        )
    torch.manual_seed(seed_of(config.seed, Purpose.INITIAL_WEIGHTS))
    copied = settings is not None and settings.base
    student = build_network(config, device, begin=checkpoint is None or copied)
    if checkpoint is not None:
        check_base(checkpoint, student)
    elif teacher is not None and settings.initialise_student:
        _initialise(student, teacher, show_progress)
    if copied:
        teacher = teacher_before(student, settings, objective)
    return student, teacher


def _initialise(student: nn.Module, teacher: Teacher, show_progress: bool) -> None:
    kept = initialise_from(teacher, student)
    if kept and show_progress:
        print(f"tensors that the teacher does not have keep their initial values: {', '.join(kept)}", file=sys.stderr)
