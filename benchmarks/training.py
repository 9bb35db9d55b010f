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

from rcgm.config import OptimizerConfig
from rcgm.config.components import bind_arguments
from rcgm.data import BatchStream, build_dataset
from rcgm.models import build_model
from rcgm.objectives import OBJECTIVES, Objective
from rcgm.runs.conditions import null_condition
from rcgm.runs.measures import Measure, build_measure, measure_steps
from rcgm.runs.sampler import RunSampler, method_of
from rcgm.seeds import Purpose
from rcgm.training.ema import Ema
from rcgm.training.optimizers import build_optimizer, learning_rate, set_learning_rate
from rcgm.training.step import TrainStep

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
    teacher_weights: dict[str, Tensor] | None = None,
) -> Trained:
    """Train the task's network with an objective, its arguments as a configuration file has them.

    Args:
        enough: told the number of steps and the seconds of processor time so far; true ends the training.
        teacher_weights: of the frozen teacher, trained by flow matching, from which the student starts too.
    """
    torch.manual_seed(seed)
    built = OBJECTIVES[objective](**bind_arguments(OBJECTIVES[objective], arguments, "objective"))
    student, teacher = build_network(task), None
    if teacher_weights is not None:
        if built.transport != OBJECTIVES[TEACHER]().transport:
            raise ValueError(f"transport must be the teacher's, linear, got {built.transport}")
        student.load_state_dict(teacher_weights)
        teacher = copy.deepcopy(student).requires_grad_(False).eval()
    ema = Ema(student, task.decay)
    optimizer = build_optimizer(task.optimizer, student, built.state())
    counted = _Counted(built)
    num_classes = getattr(student, "num_classes", None)
    step = TrainStep(
        student, counted, optimizer, ema, seed=seed, teacher=teacher, autocast=task.autocast,
        null_cond=null_condition(num_classes, CPU),
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
