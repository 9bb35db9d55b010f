"""The training loop: optimizer step, EMA, teacher, exact resume, pictures while it runs."""

from rcgm.training.ema import Ema
from rcgm.training.health import NonFiniteError
from rcgm.training.interrupts import TrainingInterrupted
from rcgm.training.launch import train
from rcgm.training.step import StepResult, TrainStep
from rcgm.training.teacher import Teacher, initialise_from, load_teacher
from rcgm.training.trainer import Trainer

__all__ = [
    "Ema",
    "NonFiniteError",
    "StepResult",
    "Teacher",
    "TrainStep",
    "Trainer",
    "TrainingInterrupted",
    "initialise_from",
    "load_teacher",
    "train",
]
