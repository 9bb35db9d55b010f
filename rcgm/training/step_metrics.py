"""Step metrics: losses, skipped steps and use of the device, gathered on the device and read with the reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rcgm.distributed.shares import Processes
from rcgm.training.health import LossWindow
from rcgm.training.loss_by_time import LossByTime
from rcgm.training.nonfinite_guard import NonFiniteGuard
from rcgm.training.step import StepResult
from rcgm.training.utilisation import Utilisation

__all__ = ["StepMetrics"]

GIB = 2**30


class StepMetrics:
    """Metrics of the steps since the last report. Only the methods that say so wait for the device.

    Args:
        device: of this process.
        processes: of the run.
        time_ranges: equal ranges of t by which the loss is reported; 0 for none.
        skip_limit: skip steps that are not finite, and abort after this many in a row; None skips none.
        utilisation: of the device.

    Attributes:
        by_time, guard: to be given to the :class:`~rcgm.training.step.TrainStep`; None where they are not wanted.
    """

    def __init__(
        self,
        device: torch.device,
        processes: Processes,
        *,
        time_ranges: int,
        skip_limit: int | None,
        utilisation: Utilisation,
    ) -> None:
        self._device = device
        self.by_time = LossByTime(time_ranges, device, processes) if time_ranges else None
        self.guard = None if skip_limit is None else NonFiniteGuard(skip_limit, device)
        self._losses = LossWindow(skip=self.guard is not None)
        self._utilisation = utilisation
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
        if self.guard is not None:
            self.guard.read()
        return losses

    def report(self, steps: int, seconds: float) -> dict[str, float | None]:
        """The numbers of the last ``steps``, which took ``seconds``; then start again.

        ``loss`` is None where every step was skipped. Each process has to make the call, which waits for the device.

        Raises:
            NonFiniteError: the run has diverged.
        """
        losses = self.check()
        self._losses.clear()
        row: dict[str, float | None] = {"loss": sum(losses) / len(losses) if losses else None}
        if self.by_time is not None:
            row |= self.by_time.report()
        if self.guard is not None:
            row["skipped_steps"] = self.guard.read()
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
            "skipped_steps": 0 if self.guard is None else self.guard.read(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self._losses = LossWindow(state["unreported_losses"], skip=self.guard is not None)
        if self.by_time is not None and state.get("unreported_by_time") is not None:
            self.by_time.restore(state["unreported_by_time"])
        if self.guard is not None:
            self.guard.restore(state.get("skipped_steps", 0))
