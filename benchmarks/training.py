"""Short trainings that compare objectives and settings: the same network, data and seed, one core, no run folder."""

from __future__ import annotations

import copy
import functools
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.adversarial import Discriminator, Features, Heads
from rcgm.config import DiscriminatorConfig, OptimizerConfig
from rcgm.config.components import bind_arguments
from rcgm.data import BatchStream, build_dataset
from rcgm.models import build_model
from rcgm.objectives import OBJECTIVES, Objective
from rcgm.runs.conditions import null_condition
from rcgm.runs.measures import Measure, build_measure, measure_steps
from rcgm.runs.sampler import RunSampler, method_of
from rcgm.seeds import Purpose
from rcgm.training.adversary import Adversary
from rcgm.training.ema import Ema
from rcgm.training.optimizers import build_optimizer, learning_rate, set_learning_rate
from rcgm.training.step import TrainStep
from rcgm.training.trial import batch_like

CPU = torch.device("cpu")
TEACHER = "flow_matching"
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


def train(
    task: Task,
    objective: str,
    arguments: dict[str, Any],
    enough: Callable[[int, float], bool],
    *,
    seed: int = 0,
    begin: dict[str, Tensor] | None = None,
    discriminator: dict[str, Any] | None = None,
) -> Trained:
    """Train the task's network with an objective, its arguments as a configuration file has them.

    Args:
        enough: told the number of steps and the seconds of processor time so far; true ends the training.
        begin: weights of the network, trained by flow matching, that the student begins with. It is also the teacher,
            where the objective or a discriminator has one.
        discriminator: the section of a configuration; None for no discriminator.
    """
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
    ema = Ema(student, task.decay)
    optimizer = build_optimizer(task.optimizer, student, built.state())
    counted = _Counted(built)
    num_classes = getattr(student, "num_classes", None)
    step = TrainStep(
        student, counted, optimizer, ema, seed=seed, teacher=teacher, autocast=task.autocast,
        null_cond=null_condition(num_classes, CPU), adversary=adversary,
    )  # fmt: skip
    batches = iter(BatchStream(dataset_of(task.data), task.batch, seed))
    memory, number, began = peak_memory(), 0, time.process_time()
    while not enough(number, time.process_time() - began):
        set_learning_rate(optimizer, learning_rate(task.optimizer, number))
        x, labels = next(batches)
        step(number, x, None if num_classes is None else labels)
        number += 1
    spent = time.process_time() - began
    return Trained(built, ema, {
        "steps": number, "milliseconds": 1e3 * spent / number, "memory_mib": peak_memory() - memory,
        "waves": counted.waves / number, "evaluations": counted.evaluations / number,
    })  # fmt: skip


def measure(task: Task, trained: Trained, steps: tuple[int, ...], seed: int = 0) -> dict[str, dict[str, float]]:
    """Measures of samples of the averaged network, by number of sampling steps."""
    dataset = dataset_of(task.data)
    sampler = RunSampler(
        trained.ema.network, dataset.info, method=method_of(trained.objective), seed=seed, purpose=Purpose.EVALUATION
    )
    return measure_steps(measure_of(task.data), sampler, steps=steps, count=task.count)


def _adversary(task: Task, section: dict[str, Any], objective: Objective, teacher: nn.Module, seed: int) -> Adversary:
    config = DiscriminatorConfig.model_validate(section)
    features = Features(teacher, config.features)
    heads = Heads(features.widths(*batch_like(dataset_of(task.data).info, teacher, CPU)), config.hidden)
    discriminator = Discriminator(features, heads, objective.transport, config.settings())
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
