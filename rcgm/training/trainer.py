"""The loop of a training run."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.config import TrainConfig
from rcgm.data import BatchStream
from rcgm.data.stream import Batch
from rcgm.distributed import ProcessLostError, gather_nothing, lost_process
from rcgm.distributed.shares import Processes
from rcgm.engine import conditions
from rcgm.files import write_atomically
from rcgm.runs.checkpoint import Checkpoint, latest_checkpoint
from rcgm.runs.checkpoint_writer import CheckpointWriter
from rcgm.runs.conditions import takes_condition
from rcgm.runs.folder import RunFolder
from rcgm.runs.loading import data_info_to_plain
from rcgm.runs.versions import library_versions
from rcgm.training.adversary import build_adversary
from rcgm.training.clock import Clock
from rcgm.training.health import NonFiniteError, finite_or_none
from rcgm.training.interrupts import StopRequest, TrainingInterrupted
from rcgm.training.optimizers import build_optimizer, learning_rate, set_learning_rate
from rcgm.training.randomness import separate_global_generators
from rcgm.training.records import Records
from rcgm.training.setup import build_ema, build_metrics, build_step, build_views, parallelize_networks
from rcgm.training.state import TrainingState
from rcgm.training.teacher import Teacher

__all__ = ["Trainer"]


class Trainer:
    """Trains a student and keeps the records of it in a run folder.

    A run that is stopped at any moment, a kill included, goes on from its newest checkpoint with the numbers that the
    uninterrupted run would have had: bit for bit on the CPU, with the same number of threads and of processes, and to
    rounding with another number of processes.

    Args:
        config: the resolved configuration.
        student: the network, on its device. Its attribute ``num_classes`` (None or absent: no classes) decides whether
            it is given the labels of the data; text states are always given.
        objective: see :class:`~rcgm.training.step.TrainStep`. What its method ``state()`` holds, where it has one, is
            moved to the device, trained with the student, saved and resumed; what its method ``report()`` returns,
            tensors of no dimension by name, is recorded as ``objective/NAME`` with the loss.
        dataset: as :class:`~rcgm.data.BatchStream` takes it, with an ``info``.
        folder: of the run.
        teacher: frozen network of another run, or None.
        checkpoint: to go on from, or None to begin.
        processes: that train together; rank 0 writes the records. ``student`` is to have the same weights in all of
            them, and is sharded here; so is ``teacher``.
        show_progress: whether to report on stderr.
        notes: plain values that every checkpoint keeps, by name.

    Raises:
        ValueError: a tensor of ``checkpoint`` does not belong to ``student``; CUDA graphs with several processes; or
            samples cannot be drawn, decoded or measured as ``config`` asks for.
    """

    def __init__(
        self,
        config: TrainConfig,
        student: nn.Module,
        objective: Callable[..., Any],
        dataset: Any,
        folder: RunFolder,
        *,
        teacher: Teacher | None = None,
        checkpoint: Checkpoint | None = None,
        processes: Processes | None = None,
        show_progress: bool = True,
        notes: dict[str, Any] | None = None,
    ) -> None:
        self.config = config
        self.student = student.train()
        self.device = next(student.parameters()).device
        self.folder = folder
        self.dataset = dataset
        self.objective = objective
        self.objective_state = objective.state().to(self.device) if hasattr(objective, "state") else nn.ModuleDict()
        self.teacher = teacher
        self.processes = Processes() if processes is None else processes
        self.step = 0
        self._notes = {} if notes is None else notes
        self._show_progress = show_progress and self.processes.is_main
        self._takes_condition = takes_condition(student, dataset.info)
        self.ema = build_ema(config.ema, student)
        self._adversary = build_adversary(config, teacher, objective, dataset.info, self.device)
        parallelize_networks(config, student, self.ema, teacher, self.processes)
        self.optimizer = build_optimizer(config.optimizer, student, self.objective_state)
        self._metrics = build_metrics(config, dataset, self.device, self.processes)
        self._state = TrainingState(
            student,
            self.ema,
            self.objective_state,
            self.optimizer,
            self._metrics,
            seed=config.seed,
            processes=self.processes,
            adversary=self._adversary,
        )
        separate_global_generators(config.seed, self.processes)
        self._seconds_before = 0.0
        if checkpoint is not None:
            self._state.restore(checkpoint)
            self.step, self._seconds_before = checkpoint.step, checkpoint.value("seconds", float)
        self._train_step = build_step(
            config,
            student,
            objective,
            self.optimizer,
            self.ema,
            teacher,
            self._adversary,
            self._metrics,
            dataset,
            self.processes,
        )
        self._previews, self._evaluator = build_views(
            config, self.ema.network, objective, dataset, folder, self.processes, show_progress=self._show_progress
        )
        self._clock = Clock(self.step, self._seconds_before)

    def run(self) -> dict[str, Any]:
        """Train up to ``config.steps`` and return the summary, which is also in ``summary.json``.

        Raises:
            ValueError: the data set is smaller than a batch.
            NonFiniteError: a loss or a parameter is no longer finite; the message names the step and the newest
                checkpoint, which is from before.
            ProcessLostError: another process is gone; the message names the newest checkpoint.
            TrainingInterrupted: a signal to stop came (see ``StopRequest``); a checkpoint of the last whole step has
                been written.
        """
        config = self.config
        with contextlib.ExitStack() as stack:
            batches = stack.enter_context(contextlib.closing(self._batches()))  # its workers end with the run
            writer = CheckpointWriter(
                self.folder.checkpoints,
                keep=config.checkpoint.keep,
                processes=self.processes,
                background=config.checkpoint.background,
            )
            stack.callback(writer.close)
            records = Records(
                config.logging,
                self.folder,
                config.model_dump(mode="json"),
                steps=config.steps,
                done=self.step,
                processes=self.processes,
                show_progress=self._show_progress,
            )
            stack.callback(records.close)
            self._clock = Clock(self.step, self._seconds_before)
            try:
                with StopRequest(self.processes) as stop:
                    while self.step < config.steps:
                        self._advance(next(batches), records, writer)
                        if self.step < config.steps and stop.agreed():
                            self._save(records, writer)
                            writer.wait()
                            raise TrainingInterrupted(
                                f"stopped after step {self.step} of {config.steps}: go on with --resume"
                            )
                writer.wait()
                return self._finish(records)
            except NonFiniteError as error:
                raise NonFiniteError(f"{error}; {self._saved()}") from error
            except RuntimeError as error:
                if self.processes.world_size == 1 or not lost_process(error):
                    raise
                raise ProcessLostError(
                    f"another process of the run is gone, in step {self.step + 1}; {self._saved()}: go on with --resume"
                ) from error

    def _advance(self, batch: Batch, records: Records, writer: CheckpointWriter) -> None:
        config = self.config
        number = self.step + 1
        last = number == config.steps
        report = last or _due(config.logging.every, number)
        x, cond = batch[0], batch[1] if self._takes_condition else None
        set_learning_rate(self.optimizer, learning_rate(config.optimizer, self.step, config.steps))
        result = self._train_step(
            self.step,
            x.to(self.device, non_blocking=True),
            conditions.moved(cond, self.device),
            total=config.batch_size,
            want_grad_norm=report,
        )
        self.step = number
        self._metrics.add(number, result)
        records.progress.advance()
        if report:
            self._report(result.grad_norm, records)
        elif self.device.type == "cpu":
            self._metrics.check()  # nothing to wait for, so a divergence is noticed at once
        with self._clock.paused():
            # First of all: what goes wrong in a picture or an evaluation must not cost the steps before it.
            if _due(config.checkpoint.every, number) or last:
                self._save(records, writer)
            if _due(config.sample.every, number):
                self._previews.draw(number, records)
            if _due(config.evaluate.every, number) and not last:
                self._evaluator.evaluate(number, records)
            gather_nothing(self.ema.network)  # which has been sampled from

    def _report(self, grad_norm: Tensor | None, records: Records) -> None:
        steps, seconds = self._clock.lap(self.step)
        row = {
            "step": self.step,
            **self._metrics.report(steps, seconds),
            "grad_norm": None if grad_norm is None else finite_or_none(float(grad_norm)),
            "lr": self.optimizer.param_groups[0]["lr"],
            "ema_decay": self.ema.current_decay,
            "images_per_second": steps * self.config.batch_size / seconds,
            "seconds": self._clock.total(),
        }
        reporting = {"objective": self.objective, "discriminator": self._adversary}
        values = {
            f"{part}/{name}": value
            for part, reporter in reporting.items()
            if hasattr(reporter, "report")
            for name, value in reporter.report().items()
        }
        if values:
            numbers = torch.stack([value.detach().double() for value in values.values()]).tolist()  # waits once
            row |= zip(values, numbers, strict=True)
        records.report(row, seconds_per_step=seconds / steps)

    def _save(self, records: Records, writer: CheckpointWriter) -> None:
        values = self._state.values()
        if not self._state.is_finite():
            raise NonFiniteError(f"the parameters after step {self.step} are not finite")
        records.sync()
        writer.save(
            self.step,
            self._state.tensors(),
            {
                "config": self.config.model_dump(mode="json"),
                "data": data_info_to_plain(self.dataset.info),
                "teacher_step": None if self.teacher is None else self.teacher.step,
                **values,
                "seconds": self._clock.total(),
                "processes": self.processes.world_size,
                "versions": library_versions(),
                **self._notes,
            },
        )

    def _finish(self, records: Records) -> dict[str, Any]:
        if self.config.evaluate.at_end:
            self._evaluator.evaluate(self.step, records)
        records.draw_training()
        summary = {
            "steps": self.step,
            "final": records.rows[-1],
            "evaluation": self._evaluator.latest,
            "wall_time_seconds": self._clock.total(),
            "parameters": sum(parameter.numel() for parameter in self.student.parameters()),
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "processes": self.processes.world_size,
            "versions": library_versions(),
            "config": self.config.model_dump(mode="json"),
        }
        if self.processes.is_main:
            write_atomically(self.folder.summary, json.dumps(summary, indent=2) + "\n")
        return summary

    def _saved(self) -> str:
        newest = latest_checkpoint(self.folder.checkpoints)
        return "there is no checkpoint yet" if newest is None else f"the last good checkpoint is '{newest}'"

    def _batches(self) -> Iterator[Batch]:
        stream = BatchStream(
            self.dataset,
            self.config.batch_size,
            self.config.seed,
            self.step,
            self.config.workers,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
            micro_batches=self.config.accumulate,
        )
        if self._show_progress:
            for line in stream.notes():
                print(line, file=sys.stderr)
        return iter(stream)


def _due(every: int, number: int) -> bool:
    return every > 0 and number % every == 0
