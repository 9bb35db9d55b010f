"""How a run is doing: losses, skipped steps, use of the device; gathered there, and read with the reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rcgm.config import TrainConfig
from rcgm.data import DataInfo
from rcgm.distributed.shares import Processes
from rcgm.training.health import LossWindow
from rcgm.training.loss_by_time import LossByTime
from rcgm.training.skips import Skips
from rcgm.training.step import StepResult
from rcgm.training.utilisation import Utilisation

__all__ = ["Vitals"]

GIB = 2**30


class Vitals:
    """What is known of the steps since the last report. Nothing but the methods that say so waits for the device.

    Args:
        config: of the run, fitted to its data.
        info: of the data.
        device: of this process.
        processes: of the run.

    Attributes:
        by_time, skips: to be given to the :class:`~rcgm.training.step.TrainStep`; None where they are not wanted.
    """

    def __init__(self, config: TrainConfig, info: DataInfo, device: torch.device, processes: Processes) -> None:
        self._config = config
        self._device = device
        self.by_time = LossByTime(config.logging.time_ranges, device, processes) if config.logging.time_ranges else None
        self.skips = Skips(config.skip_limit, device) if config.skip_nonfinite else None
        self._losses = LossWindow(skip=config.skip_nonfinite)
        self._utilisation = Utilisation(config, info, device)
        self._rows = 0

    def add(self, step: int, result: StepResult) -> None:
        """Note a step."""
        self._losses.add(step, result.loss)
        self._rows = result.rows

    def check(self) -> list[float]:
        """The losses since the last report. Waits for the device.

        Raises:
            NonFiniteError: the run has diverged.
        """
        losses = self._losses.read()
        if self.skips is not None:
            self.skips.read()
        return losses

    def report(self, steps: int, seconds: float) -> dict[str, float | None]:
        """The numbers of the last ``steps``, which took ``seconds``; then begin anew.

        ``loss`` is None where every step was left out. Each process has to make the call, which waits for the device.

        Raises:
            NonFiniteError: the run has diverged.
        """
        losses = self.check()
        self._losses.clear()
        row: dict[str, float | None] = {"loss": sum(losses) / len(losses) if losses else None}
        if self.by_time is not None:
            row |= self.by_time.report()
        if self.skips is not None:
            row["skipped_steps"] = self.skips.read()
        row |= self._utilisation.share(self._rows, steps, seconds)
        if self._device.type == "cuda":
            row["peak_memory_gib"] = torch.cuda.max_memory_allocated(self._device) / GIB
            torch.cuda.reset_peak_memory_stats(self._device)
        return row

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, plain values. Each process has to make the call, which waits for the device.

        Raises:
            NonFiniteError: the run has diverged.
        """
        return {
            "unreported_losses": self.check(),
            "unreported_by_time": None if self.by_time is None else self.by_time.state(),
            "skipped_steps": 0 if self.skips is None else self.skips.read(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self._losses = LossWindow(state["unreported_losses"], skip=self._config.skip_nonfinite)
        if self.by_time is not None and state.get("unreported_by_time") is not None:
            self.by_time.restore(state["unreported_by_time"])
        if self.skips is not None:
            self.skips.restore(state.get("skipped_steps", 0))
