"""A frozen network, for distillation: of another run, or the one that a run begins with."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.config import ConfigError, TeacherConfig, build_objective_from
from rcgm.data import DataInfo
from rcgm.networks import PublishedNetwork
from rcgm.roles import Role, base_of
from rcgm.runs.checkpoint import CheckpointError
from rcgm.runs.loading import load_run
from rcgm.transports import Linear

__all__ = ["Teacher", "initialise_from", "load_teacher", "teacher_before"]


class Teacher:
    """A network ``(x, t, r, cond)`` in evaluation mode, without gradient.

    Args:
        network: frozen; moved nowhere.
        step: of the checkpoint that it was loaded from; 0 for none.
        any_step: false for a network that was trained only at ``r = t``: it is always given ``r = t``, and so gives the
            instantaneous prediction.
    """

    def __init__(self, network: nn.Module, step: int, *, any_step: bool) -> None:
        self.network = network.requires_grad_(False).eval()
        self.step = step
        self.any_step = any_step

    def __call__(self, x: Tensor, t: Tensor, r: Tensor, cond: Any = None) -> Tensor:
        """``x`` ``[B, ...]``, ``t`` and ``r`` ``[B]`` to a tensor of the shape of ``x``."""
        return self.network(x, t, r if self.any_step else t, cond)


def load_teacher(
    config: TeacherConfig,
    objective: Any,
    info: DataInfo,
    *,
    num_classes: int | None,
    device: torch.device,
    step: int | None = None,
) -> Teacher:
    """The teacher of ``config``, after a check that its data, classes and transport are those of the student.

    Args:
        config: which run, and what of it; without ``base``.
        objective: of the student; its ``transport`` says what predictions mean.
        info: of the student's data.
        num_classes: classes that the student takes, or None.
        device: where the network goes.
        step: of the checkpoint, where ``config`` leaves it open and the run that goes on had chosen one; None for the
            newest.

    Raises:
        ConfigError: the run is not there, has no such checkpoint, or is of other data, classes or transport.
    """
    wanted = step if config.checkpoint is None else config.checkpoint
    try:
        run = load_run(config.run, device=device, step=wanted, weights=config.weights)
    except FileNotFoundError as error:
        raise ConfigError(
            f"teacher.run: {error}; train the teacher first (objective.name=flow_matching), and give its folder"
        ) from error
    except CheckpointError as error:
        raise ConfigError(f"teacher: {error}; set teacher.run and teacher.checkpoint to what there is") from error
    if run.info.shape != info.shape:
        raise ConfigError(
            f"teacher.run: '{config.run}' was trained on samples of shape {list(run.info.shape)}, the data here have "
            f"{list(info.shape)}: choose a teacher of the same data"
        )
    classes = getattr(run.network, "num_classes", None)
    if classes != num_classes:
        raise ConfigError(
            f"teacher.run: '{config.run}' takes {_classes(classes)} and the student {_classes(num_classes)}: both must "
            "take the same (data.labels, model.num_classes)"
        )
    transport = build_objective_from(run.config).transport
    if transport != objective.transport:
        raise ConfigError(
            f"teacher.run: '{config.run}' was trained with the transport {transport}, and the student is to learn "
            f"{objective.transport}: set objective.transport to the teacher's"
        )
    return Teacher(run.network, run.step, any_step=config.kind == "any_step")


def teacher_before(student: nn.Module, config: TeacherConfig, objective: Any) -> Teacher:
    """The network that ``student`` is before its training, as a teacher: of a role its base, else a copy.

    Args:
        student: with the weights that it begins with.
        config: with ``base``.
        objective: of the student.

    Raises:
        ConfigError: the network predicts something else than the objective asks for.
    """
    network = student.without_adapter() if isinstance(student, Role) else copy.deepcopy(student)
    if isinstance(base_of(student), PublishedNetwork) and type(objective.transport) is not Linear:
        raise ConfigError(
            "teacher.base: published networks predict under the transport linear, and the objective has "
            f"{objective.transport}: set objective.transport=linear"
        )
    return Teacher(network, 0, any_step=config.kind == "any_step")


@torch.no_grad()
def initialise_from(teacher: Teacher, student: nn.Module) -> list[str]:
    """Copy the teacher's weights into the student, where names and shapes agree.

    Returns:
        The names of the student's tensors that keep their values.

    Raises:
        ConfigError: nothing agrees.
    """
    source, kept = teacher.network.state_dict(), []
    tensors = student.state_dict()
    for name, tensor in tensors.items():
        if name in source and source[name].shape == tensor.shape:
            tensor.copy_(source[name])
        else:
            kept.append(name)
    if len(kept) == len(tensors):
        raise ConfigError(
            "teacher.initialise_student: no tensor of the student has the name and the shape of one of the teacher's: "
            "give both the same model, or set it to false"
        )
    return kept


def _classes(number: int | None) -> str:
    return "no classes" if number is None else f"{number} classes"
