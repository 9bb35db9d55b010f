"""What is recorded of a run while it trains: numbers, pictures, evaluations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from rcgm import plots
from rcgm.config import EvaluateConfig, SampleConfig, TrainConfig, build_objective_from
from rcgm.distributed.shares import Processes
from rcgm.runs.decoding import Decoder
from rcgm.runs.folder import RunFolder
from rcgm.runs.measures import Measure, build_measure, measure_steps
from rcgm.runs.metrics import EvaluationsFile, MetricsFile, TensorBoard
from rcgm.runs.progress import Progress, counting
from rcgm.runs.sampler import RunSampler, method_of
from rcgm.runs.wandb_log import WeightsAndBiases
from rcgm.seeds import Purpose

__all__ = ["Observer"]

REFERENCE_POINTS = 2000


class Observer:
    """Writes the records of a run. It reads the network and changes nothing of the training, random numbers included.

    Args:
        config: of the run.
        folder: of the run.
        network: to sample from.
        dataset: with an ``info``.
        device: of the network.
        done: steps of the checkpoint that the run goes on from; records of later ones are dropped.
        processes: of the run; they sample together, and the first one writes.
        show_progress: whether to report on stderr.

    Raises:
        ConfigError: ``config.sample.decoder`` does not fit the data.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        network: nn.Module,
        dataset: Any,
        device: torch.device,
        *,
        done: int,
        processes: Processes,
        show_progress: bool,
    ) -> None:
        self.config = config
        self.folder = folder
        self.network = network
        self.dataset = dataset
        self.device = device
        self.evaluation: dict[str, dict[str, float]] = {}
        self._autocast = getattr(torch, config.precision)
        self._objective = build_objective_from(config)  # for how its networks are sampled
        self._processes = processes
        self._show_progress = show_progress
        self._decoder: Decoder | None = None
        if config.sample.decoder is not None:
            self._decoder = Decoder(config.sample.decoder, dataset.info, device)
        self._measure: Measure | None = None
        if config.evaluate.features is not None and (config.evaluate.at_end or config.evaluate.every):
            with _global_random_state_kept(device):
                self._measure = self._build_measure()  # what is missing for it is said before the first step
        self.metrics = MetricsFile(folder.metrics, done=done, enabled=processes.is_main)
        self._evaluations = EvaluationsFile(folder.evaluations, done=done, enabled=processes.is_main)
        self._boards = [
            TensorBoard(folder.tensorboard, done=done, enabled=config.logging.tensorboard and processes.is_main),
            WeightsAndBiases(
                config.logging.wandb if processes.is_main else None, folder.root, config.model_dump(mode="json")
            ),
        ]
        self.progress = Progress(config.steps, done, enabled=show_progress)

    def report(self, row: Mapping[str, Any]) -> None:
        """Record the numbers of a step; ``row`` has a "step", a "loss" and "images_per_second"."""
        self.metrics.append(row)
        for board in self._boards:
            board.scalars(row, "train")
        self.progress.report(row)

    def draw_samples(self, step: int) -> None:
        """Draw samples in each number of steps, and the loss so far."""
        settings, info = self.config.sample, self.dataset.info
        sampler = self._sampler(settings, Purpose.PREVIEW)
        with _global_random_state_kept(self.device):
            samples = {
                plots.steps_title(number): sampler.draw(settings.count, steps=number) for number in settings.steps
            }
        if not self._processes.is_main:
            return
        value_range = info.value_range
        if self._decoder is not None:
            samples = {name: self._decoder(latents) for name, latents in samples.items()}
            value_range = (-1.0, 1.0)
        reference = None
        if info.kind == "points":
            reference, _ = self.dataset.take(torch.arange(min(REFERENCE_POINTS, len(self.dataset))))
        figure = plots.sample_panels(
            samples,
            labels=sampler.labels(range(settings.count)),
            reference=reference,
            value_range=value_range,
            class_names=info.class_names,
            title=f"step {step:,}",
        )
        plots.save_figure(self.folder.samples / f"step_{step:08d}.png", figure)
        for board in self._boards:
            board.picture("samples", plots.render(figure), step)
        self._draw_loss()

    def draw_training(self) -> None:
        """Draw the loss of the whole run, and make a film and a strip of its pictures of samples."""
        self._draw_loss()
        if self._processes.is_main:
            previews = {int(path.stem.removeprefix("step_")): path for path in self.folder.samples.glob("step_*.png")}
            plots.save_film(self.folder.film, previews)
            plots.save_film_strip(self.folder.film_strip, previews)

    def _draw_loss(self) -> None:
        rows = [row for row in self.metrics.rows if row["loss"] is not None]
        if rows and self._processes.is_main:
            curve = ([row["step"] for row in rows], [row["loss"] for row in rows])
            plots.save_curves(
                self.folder.loss_curve, {"loss": curve}, x_label="step", y_label="loss", title="Training loss"
            )

    def evaluate(self, step: int) -> None:
        """Measure samples in each number of steps, where there is a measure for such data."""
        settings = self.config.evaluate
        with _global_random_state_kept(self.device):
            if self._measure is None:
                self._measure = self._build_measure()
            if self._measure is None:
                return
            with counting(settings.count * len(settings.steps), "samples", enabled=self._show_progress) as count:
                self.evaluation = measure_steps(
                    self._measure,
                    self._sampler(settings, Purpose.EVALUATION),
                    steps=settings.steps,
                    count=settings.count,
                    on_chunk=count,
                )
        self._evaluations.set(step, self.evaluation)
        for number, values in self.evaluation.items():
            for board in self._boards:
                board.scalars({"step": step, **values}, f"evaluation/steps_{number}")

    def _sampler(self, settings: SampleConfig | EvaluateConfig, purpose: Purpose) -> RunSampler:
        return RunSampler(
            self.network,
            self.dataset.info,
            method=method_of(self._objective, settings.sampler),
            guidance=settings.guidance,
            autocast=self._autocast,
            seed=self.config.seed,
            purpose=purpose,
            processes=self._processes,
        )

    def _build_measure(self) -> Measure | None:
        return build_measure(
            self.dataset,
            self.config.evaluate,
            device=self.device,
            decode=self._decoder,
            processes=self._processes,
        )

    def close(self) -> None:
        """Close what is open."""
        self.progress.close()
        for board in self._boards:
            board.close()
        self.metrics.close()


@contextlib.contextmanager
def _global_random_state_kept(device: torch.device) -> Iterator[None]:
    # A network or a classifier that draws from torch's global generator must not change the training that follows.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
