"""The trainer: EMA target, exact resume, checkpoints without pickles, pictures while it runs."""

from rcgm.training.checkpoint import CheckpointError, latest_checkpoint, read_checkpoint, save_checkpoint
from rcgm.training.ema import Ema
from rcgm.training.health import NonFiniteError
from rcgm.training.interrupts import TrainingInterrupted
from rcgm.training.launch import train
from rcgm.training.runs import LoadedRun, RunFolder, choose_device, load_run
from rcgm.training.step import StepResult, TrainStep
from rcgm.training.teacher import Teacher, initialise_from, load_teacher
from rcgm.training.trainer import Trainer

__all__ = [
    "CheckpointError",
    "Ema",
    "LoadedRun",
    "NonFiniteError",
    "RunFolder",
    "StepResult",
    "Teacher",
    "TrainStep",
    "Trainer",
    "TrainingInterrupted",
    "choose_device",
    "initialise_from",
    "latest_checkpoint",
    "load_run",
    "load_teacher",
    "read_checkpoint",
    "save_checkpoint",
    "train",
]
