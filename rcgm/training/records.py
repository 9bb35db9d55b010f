"""The records of a run while it trains: files of numbers, boards, progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rcgm import plots
from rcgm.config import LoggingConfig
from rcgm.distributed.shares import Processes
from rcgm.runs.folder import RunFolder
from rcgm.runs.metrics import EvaluationsFile, MetricsFile, TensorBoard
from rcgm.runs.progress import Progress
from rcgm.runs.wandb_log import WeightsAndBiases

__all__ = ["Records"]


class Records:
    """Writes the numbers and pictures of a run, on rank 0.

    Args:
        settings: section ``logging`` of the run.
        folder: of the run.
        config: what boards record as the configuration, plain values.
        steps: of the run.
        done: steps of the checkpoint that the run goes on from; records of later ones are dropped.
        processes: of the run.
        show_progress: whether to report on stderr.
    """

    def __init__(
        self,
        settings: LoggingConfig,
        folder: RunFolder,
        config: Mapping[str, Any],
        *,
        steps: int,
        done: int,
        processes: Processes,
        show_progress: bool,
    ) -> None:
        main = processes.is_main
        self._folder = folder
        self._enabled = main
        self._metrics = MetricsFile(folder.metrics, done=done, enabled=main)
        self._evaluations = EvaluationsFile(folder.evaluations, done=done, enabled=main)
        self._boards = [
            TensorBoard(folder.tensorboard, done=done, enabled=settings.tensorboard and main),
            WeightsAndBiases(settings.wandb if main else None, folder.root, config),
        ]
        self.progress = Progress(steps, done, enabled=show_progress)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``."""
        return self._metrics.rows

    def report(self, row: Mapping[str, Any], *, seconds_per_step: float) -> None:
        """Record the numbers of a step; ``row`` has a "step", a "loss" and "images_per_second"."""
        self._metrics.append(row)
        for board in self._boards:
            board.scalars(row, "train")
        self.progress.report(row, seconds_per_step=seconds_per_step)

    def evaluation(self, step: int, report: Mapping[str, Mapping[str, float]]) -> None:
        """Record the measures of a step, by number of sampling steps."""
        self._evaluations.set(step, report)
        for number, values in report.items():
            for board in self._boards:
                board.scalars({"step": step, **values}, f"evaluation/steps_{number}")

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Give a picture, uint8 ``[H, W, 3]``, to the boards."""
        for board in self._boards:
            board.picture(name, pixels, step)

    def draw_loss(self) -> None:
        """Draw the loss so far."""
        rows = [row for row in self.rows if row["loss"] is not None]
        if rows and self._enabled:
            curve = ([row["step"] for row in rows], [row["loss"] for row in rows])
            plots.save_curves(
                self._folder.loss_curve, {"loss": curve}, x_label="step", y_label="loss", title="Training loss"
            )

    def draw_training(self) -> None:
        """Draw the loss of the whole run, and make a film and a strip of its pictures of samples."""
        self.draw_loss()
        if self._enabled:
            previews = {int(path.stem.removeprefix("step_")): path for path in self._folder.samples.glob("step_*.png")}
            plots.save_film(self._folder.film, previews)
            plots.save_film_strip(self._folder.film_strip, previews)

    def sync(self) -> None:
        """Flush the rows to the disk: those up to a checkpoint must survive whatever the checkpoint survives."""
        self._metrics.sync()

    def close(self) -> None:
        """Close what is open."""
        self.progress.close()
        for board in self._boards:
            board.close()
        self._metrics.close()
