"""Short trainings that compare objectives and settings: the same network, data and seed, one core, no run folder."""

from __future__ import annotations

import copy
import functools
import resource
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.config import DiscriminatorConfig, OptimizerConfig
from rcgm.config.components import bind_arguments
from rcgm.data import BatchStream, build_dataset
from rcgm.models import build_model
from rcgm.objectives import OBJECTIVES, Objective
from rcgm.runs.conditions import null_condition
from rcgm.runs.measures import Measure, build_measure, measure_steps
from rcgm.runs.sampler import RunSampler, method_of
from rcgm.seeds import Purpose
from rcgm.training.adversary import Adversary, build_discriminator
from rcgm.training.ema import Ema
from rcgm.training.optimizers import build_optimizer, learning_rate, set_learning_rate
from rcgm.training.step import TrainStep

CPU = torch.device("cpu")
TEACHER = "flow_matching"
STEPS_OF_ALL_KINDS = 16
"""An objective may have parts that are not in every step; all of them were there after so many."""
DIGITS_DIT = {
    "name": "dit", "patch_size": 2, "hidden_size": 64, "depth": 3, "num_heads": 4, "embedder_init": "wide",
    "input_size": [8, 8], "in_channels": 1, "num_classes": 10,
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """Data, network and what all runs on them share; ``quality`` is the measure of samples, lower is better."""

    data: str
    model: dict[str, Any]
    batch: int
    optimizer: OptimizerConfig
    decay: float
    quality: str
    count: int
    autocast: torch.dtype = torch.float32


@dataclass(frozen=True)
class Trained:
    """What a training leaves."""

    objective: Objective
    ema: Ema
    costs: dict[str, float]


class Training:
    """Trains the task's network with an objective, one step at a time.

    Args:
        arguments: of the objective, as a configuration file has them.
        begin: weights of the network, trained by flow matching, that the student begins with. It is also the teacher,
            where the objective or a discriminator has one.
        discriminator: the section of a configuration; None for no discriminator.

    Attributes:
        number: of steps so far.
        seconds: of processor time that they took.
    """

    def __init__(
        self,
        task: Task,
        objective: str,
        arguments: dict[str, Any],
        *,
        seed: int = 0,
        begin: dict[str, Tensor] | None = None,
        discriminator: dict[str, Any] | None = None,
    ) -> None:
        torch.manual_seed(seed)
        built = OBJECTIVES[objective](**bind_arguments(OBJECTIVES[objective], arguments, "objective"))
        student, teacher = build_network(task), None
        if begin is not None:
            student.load_state_dict(begin)
        if built.needs_teacher() or discriminator is not None:
            if built.transport != OBJECTIVES[TEACHER]().transport:
                raise ValueError(f"transport must be the teacher's, linear, got {built.transport}")
            teacher = copy.deepcopy(student).requires_grad_(False).eval()
        adversary = None if discriminator is None else _adversary(task, discriminator, built, teacher, seed)
        self.number, self.seconds = 0, 0.0
        self._task = task
        self._objective = _Counted(built)
        self._ema = Ema(student, task.decay)
        self._optimizer = build_optimizer(task.optimizer, student, built.state())
        self._labelled = getattr(student, "num_classes", None) is not None
        self._step = TrainStep(
            student, self._objective, self._optimizer, self._ema, seed=seed, teacher=teacher, autocast=task.autocast,
            null_cond=null_condition(getattr(student, "num_classes", None), CPU), adversary=adversary,
        )  # fmt: skip
        self._batches = iter(BatchStream(dataset_of(task.data), task.batch, seed))
        self._memory_before = self._memory = peak_memory()

    def step(self) -> None:
        """Train on the next batch."""
        began = time.process_time()
        set_learning_rate(self._optimizer, learning_rate(self._task.optimizer, self.number))
        x, labels = next(self._batches)
        self._step(self.number, x, labels if self._labelled else None)
        self.number += 1
        self.seconds += time.process_time() - began
        if self.number <= STEPS_OF_ALL_KINDS:
            self._memory = peak_memory()

    def trained(self) -> Trained:
        """What it has left so far; memory is the peak of its first steps, beyond what was in use before."""
        counted, number = self._objective, self.number
        return Trained(counted.objective, self._ema, {
            "steps": number,
            "memory_mib": self._memory - self._memory_before,
            "waves": counted.waves / number, "evaluations": counted.evaluations / number,
        })  # fmt: skip


def train(task: Task, objective: str, arguments: dict[str, Any], steps: int, *, seed: int = 0) -> Trained:
    """Train the task's network with an objective for so many steps."""
    training = Training(task, objective, arguments, seed=seed)
    for _ in range(steps):
        training.step()
    return training.trained()


def measure(task: Task, trained: Trained, steps: tuple[int, ...], seed: int = 0) -> dict[str, dict[str, float]]:
    """Measures of samples of the averaged network, by number of sampling steps."""
    dataset = dataset_of(task.data)
    sampler = RunSampler(
        trained.ema.network, dataset.info, method=method_of(trained.objective), seed=seed, purpose=Purpose.EVALUATION
    )
    return measure_steps(measure_of(task.data), sampler, steps=steps, count=task.count)


def _adversary(task: Task, section: dict[str, Any], objective: Objective, teacher: nn.Module, seed: int) -> Adversary:
    config = DiscriminatorConfig.model_validate(section)
    info = dataset_of(task.data).info
    discriminator = build_discriminator(config, teacher, objective.transport, info, device=CPU, seed=seed)
    return Adversary(discriminator, config, seed=seed, autocast=task.autocast)


@functools.cache
def dataset_of(name: str) -> Any:
    """The data set called ``name``, built once."""
    return build_dataset(name)


@functools.cache
def measure_of(data: str) -> Measure:
    """The measure of a data set, built once: that of the digits trains a classifier."""
    return build_measure(dataset_of(data))


def build_network(task: Task) -> nn.Module:
    arguments = dict(task.model)
    return build_model(arguments.pop("name"), **arguments)


def peak_memory() -> float:
    """Largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@dataclass
class _Counted:
    """An objective, and the waves and evaluations of all its steps."""

    objective: Objective
    waves: int = field(default=0, init=False)
    evaluations: int = field(default=0, init=False)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        output = self.objective(*arguments, **options)
        self.waves += output.waves
        self.evaluations += output.evaluations
        return output
