"""The loop of a training run."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.config import TrainConfig
from rcgm.data import BatchStream
from rcgm.distributed import ProcessLostError, gather_nothing, lost_process, make_mesh, parallelize
from rcgm.distributed.shares import Processes
from rcgm.engine.cuda_graphs import GraphedNetwork
from rcgm.files import write_atomically
from rcgm.runs.checkpoint import Checkpoint, latest_checkpoint
from rcgm.runs.checkpoint_writer import CheckpointWriter
from rcgm.runs.folder import RunFolder
from rcgm.runs.loading import data_info_to_plain
from rcgm.runs.sampler import null_condition
from rcgm.runs.versions import library_versions
from rcgm.training.ema import Ema
from rcgm.training.health import NonFiniteError, all_finite, finite_or_none
from rcgm.training.interrupts import StopRequest, TrainingInterrupted
from rcgm.training.observer import Observer
from rcgm.training.optimizers import (
    build_optimizer,
    empty_optimizer_state,
    export_optimizer,
    import_optimizer,
    learning_rate,
    set_learning_rate,
)
from rcgm.training.randomness import (
    global_random_state,
    restore_global_random_state,
    separate_global_generators,
)
from rcgm.training.step import TrainStep
from rcgm.training.teacher import Teacher
from rcgm.training.vitals import Vitals

__all__ = ["Trainer"]


class Trainer:
    """Trains a student and keeps the records of it in a run folder.

    A run that is stopped at any moment, a kill included, goes on from its newest checkpoint with the numbers that the
    uninterrupted run would have had: bit for bit on the CPU, with the same number of threads and of processes, and to
    rounding with another number of processes.

    Args:
        config: the resolved configuration.
        student: the network, on its device. Its attribute ``num_classes`` (None or absent: no classes) decides whether
            it is given the labels of the data.
        objective: see :class:`~rcgm.training.step.TrainStep`. What its method ``state()`` holds, where it has one, is
            moved to the device, trained with the student, saved and resumed; what its method ``report()`` returns,
            tensors of no dimension by name, is recorded as ``objective/NAME`` with the loss.
        dataset: as :class:`~rcgm.data.BatchStream` takes it, with an ``info``.
        folder: of the run.
        teacher: frozen network of another run, or None.
        checkpoint: to go on from, or None to begin.
        processes: that train together; the first one writes the records. ``student`` is to have the same weights in all
            of them, and is sharded here; so is ``teacher``.
        show_progress: whether to report on stderr.

    Raises:
        ValueError: a tensor of ``checkpoint`` does not belong to ``student``, or CUDA graphs with several processes.
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
    ) -> None:
        self.config = config
        self.student = student.train()
        self.device = next(student.parameters()).device
        self.folder = folder
        self.dataset = dataset
        cast = None if config.ema.cast is None else getattr(torch, config.ema.cast)
        self.ema = Ema(
            student,
            config.ema.decay,
            warmup=config.ema.warmup,
            cast=cast,
            target_decay=config.ema.target_decay,
            target_warmup=config.ema.target_warmup,
        )
        self.objective = objective
        self.memory = objective.state().to(self.device) if hasattr(objective, "state") else nn.ModuleDict()
        self.teacher = teacher
        self.processes = Processes() if processes is None else processes
        if config.cuda_graphs and self.processes.world_size > 1:
            # sharded parameters are gathered in another place each time
            raise ValueError(
                f"cuda_graphs must be false where several processes train, got {self.processes.world_size}"
            )
        self._parallelize()
        self.optimizer = build_optimizer(config.optimizer, student, self.memory)
        self.step = 0
        self._vitals = Vitals(config, dataset.info, self.device, self.processes)
        self._seconds_before = 0.0
        separate_global_generators(config.seed, self.processes)
        if checkpoint is not None:
            self._restore(checkpoint)
        self._num_classes = getattr(student, "num_classes", None)
        self._train_step = TrainStep(
            student,
            objective,
            self.optimizer,
            self.ema,
            seed=config.seed,
            accumulate=config.accumulate,
            autocast=getattr(torch, config.precision),
            clip_grad_norm=config.optimizer.clip_grad_norm,
            null_cond=null_condition(self._num_classes, self.device),
            teacher=GraphedNetwork(teacher) if config.cuda_graphs and teacher is not None else teacher,
            frozen=() if teacher is None else (teacher.network,),
            processes=self.processes,
            target=GraphedNetwork(self.ema.target) if config.cuda_graphs else None,
            by_time=self._vitals.by_time,
            skips=self._vitals.skips,
        )
        self._show_progress = show_progress and self.processes.is_main
        self._clock = _Clock(self.step)

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
            stream = BatchStream(
                self.dataset,
                config.batch_size,
                config.seed,
                self.step,
                config.workers,
                rank=self.processes.rank,
                world_size=self.processes.world_size,
                micro_batches=config.accumulate,
            )
            batches = stack.enter_context(contextlib.closing(iter(stream)))  # its workers end with the run
            writer = CheckpointWriter(
                self.folder.checkpoints,
                keep=config.checkpoint.keep,
                processes=self.processes,
                background=config.checkpoint.background,
            )
            stack.callback(writer.close)
            observer = Observer(
                config,
                self.folder,
                self.ema.network,
                self.dataset,
                self.device,
                done=self.step,
                processes=self.processes,
                show_progress=self._show_progress,
            )
            stack.callback(observer.close)
            self._clock = _Clock(self.step)
            return self._run(batches, observer, writer)

    def _run(
        self, batches: Iterator[tuple[Tensor, Tensor | None]], observer: Observer, writer: CheckpointWriter
    ) -> dict[str, Any]:
        config = self.config
        try:
            with StopRequest(self.processes) as stop:
                while self.step < config.steps:
                    self._advance(next(batches), observer, writer)
                    if self.step < config.steps and stop.agreed():
                        self._save(observer, writer)
                        writer.wait()
                        raise TrainingInterrupted(
                            f"stopped after step {self.step} of {config.steps}: go on with --resume"
                        )
            writer.wait()
            return self._finish(observer)
        except NonFiniteError as error:
            raise NonFiniteError(f"{error}; {self._saved()}") from error
        except RuntimeError as error:
            if self.processes.world_size == 1 or not lost_process(error):
                raise
            raise ProcessLostError(
                f"another process of the run is gone, in step {self.step + 1}; {self._saved()}: go on with --resume"
            ) from error

    def _parallelize(self) -> None:
        # After the copies for the average are made: a compiled or sharded module is not to be copied.
        config = self.config.parallel
        mesh = make_mesh(config, self.device, self.processes.world_size)
        frozen = [*self.ema.copies, *([] if self.teacher is None else [self.teacher.network])]
        for network in (self.student, *frozen):
            kept = config.keep_student_gathered if network is self.student else config.keep_target_gathered
            parallelize(network, config, mesh, compile=self.config.compile, keep_gathered=kept)

    def _saved(self) -> str:
        newest = latest_checkpoint(self.folder.checkpoints)
        return "there is no checkpoint yet" if newest is None else f"the last good checkpoint is '{newest}'"

    def _advance(self, batch: tuple[Tensor, Tensor | None], observer: Observer, writer: CheckpointWriter) -> None:
        config = self.config
        number = self.step + 1
        last = number == config.steps
        report = last or _due(config.logging.every, number)
        x, labels = (None if part is None else part.to(self.device, non_blocking=True) for part in batch)
        set_learning_rate(self.optimizer, learning_rate(config.optimizer, self.step))
        result = self._train_step(
            self.step,
            x,
            None if self._num_classes is None else labels,
            total=config.batch_size,
            want_grad_norm=report,
        )
        self.step = number
        self._vitals.add(number, result)
        observer.progress.advance()
        if report:
            self._report(result.grad_norm, observer)
        elif self.device.type == "cpu":
            self._vitals.check()  # nothing to wait for, so a divergence is noticed at once
        with self._clock.paused():
            # First of all: what goes wrong in a picture or an evaluation must not cost the steps before it.
            if _due(config.checkpoint.every, number) or last:
                self._save(observer, writer)
            if _due(config.sample.every, number):
                observer.draw_samples(number)
            if _due(config.evaluate.every, number) and not last:
                observer.evaluate(number)
            gather_nothing(self.ema.network)  # which has been sampled from

    def _report(self, grad_norm: Tensor | None, observer: Observer) -> None:
        steps, seconds = self._clock.lap(self.step)
        observer.report(
            {
                "step": self.step,
                **self._vitals.report(steps, seconds),
                "grad_norm": None if grad_norm is None else finite_or_none(float(grad_norm)),
                "lr": self.optimizer.param_groups[0]["lr"],
                "ema_decay": self.ema.current_decay,
                "images_per_second": steps * self.config.batch_size / seconds,
                "seconds": self._elapsed(),
                **self._reported(),
            }
        )

    def _reported(self) -> dict[str, float]:
        values = self.objective.report() if hasattr(self.objective, "report") else {}
        if not values:
            return {}
        numbers = torch.stack([value.detach().double() for value in values.values()]).tolist()  # waits once for all
        return {f"objective/{name}": number for name, number in zip(values, numbers, strict=True)}

    def _save(self, observer: Observer, writer: CheckpointWriter) -> None:
        vitals = self._vitals.state()
        finite = all_finite([*self.student.parameters(), *self.memory.parameters()])
        if not self.processes.all_agree(finite, self.device):
            raise NonFiniteError(f"the parameters after step {self.step} are not finite")
        observer.metrics.sync()
        writer.save(
            self.step,
            {
                "student": self.student.state_dict(),
                **{group: average for group, _, average in self._averages()},
                "memory": self.memory.state_dict(),
                "optimizer": export_optimizer(self.optimizer, self.student, self.memory),
                "random": global_random_state(self.device, self.processes),
            },
            {
                "config": self.config.model_dump(mode="json"),
                "data": data_info_to_plain(self.dataset.info),
                **{f"{group}_decay": ema.current_decay for group, ema, _ in self._averages()},
                "teacher_step": None if self.teacher is None else self.teacher.step,
                **vitals,
                "seconds": self._elapsed(),
                "processes": self.processes.world_size,
                "versions": library_versions(),
            },
        )

    def _averages(self) -> list[tuple[str, Ema, dict[str, Tensor]]]:
        """The averages with their names in a checkpoint and their tensors, none where an average is the student."""
        named = {"ema": self.ema, "target_ema": self.ema.second}
        return [
            (name, ema, {} if ema.is_student else ema.network.state_dict())
            for name, ema in named.items()
            if ema is not None
        ]

    def _restore(self, checkpoint: Checkpoint) -> None:
        checkpoint.read_into("student", self.student.state_dict())
        for group, ema, average in self._averages():
            checkpoint.read_into(group, average)
            ema.load(average, checkpoint.state[f"{group}_decay"])
        self.memory.load_state_dict(checkpoint.read("memory"))
        optimizer = empty_optimizer_state(checkpoint.layout.get("optimizer", {}), self.student, self.memory)
        checkpoint.read_into("optimizer", optimizer)
        import_optimizer(self.optimizer, self.student, optimizer, self.memory)
        restore_global_random_state(
            checkpoint.read("random"), self.device, self.processes, seed=self.config.seed, step=checkpoint.step
        )
        self._vitals.restore(checkpoint.state)
        self._seconds_before = checkpoint.state["seconds"]
        self.step = checkpoint.step

    def _finish(self, observer: Observer) -> dict[str, Any]:
        if self.config.evaluate.at_end:
            observer.evaluate(self.step)
        observer.draw_training()
        summary = {
            "steps": self.step,
            "final": observer.metrics.rows[-1],
            "evaluation": observer.evaluation,
            "wall_time_seconds": self._elapsed(),
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

    def _elapsed(self) -> float:
        return self._seconds_before + self._clock.total()


class _Clock:
    """Time of the run, and time of training since the last report, which leaves pictures and checkpoints out."""

    def __init__(self, step: int) -> None:
        self._started = self._lap_started = time.perf_counter()
        self._lap_step = step

    def total(self) -> float:
        return time.perf_counter() - self._started

    def lap(self, step: int) -> tuple[int, float]:
        """Steps and seconds of training since the last call."""
        now = time.perf_counter()
        steps, seconds = step - self._lap_step, now - self._lap_started
        self._lap_step, self._lap_started = step, now
        return steps, seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._lap_started += time.perf_counter() - began


def _due(every: int, number: int) -> bool:
    return every > 0 and number % every == 0
