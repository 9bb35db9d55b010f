"""The time that a run takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

__all__ = ["Clock"]


class Clock:
    """Time of the run, and time of training since the last report, which leaves pictures and checkpoints out.

    Args:
        step: done so far.
        before: seconds that earlier parts of the run took.
    """

    def __init__(self, step: int, before: float = 0.0) -> None:
        self._before = before
        self._started = self._lap_started = time.perf_counter()
        self._lap_step = step

    def total(self) -> float:
        """Seconds of the run, earlier parts included."""
        return self._before + time.perf_counter() - self._started

    def lap(self, step: int) -> tuple[int, float]:
        """Steps and seconds of training since the last call."""
        now = time.perf_counter()
        steps, seconds = step - self._lap_step, now - self._lap_started
        self._lap_step, self._lap_started = step, now
        return steps, seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the body out of the time of training."""
        began = time.perf_counter()
        yield
        self._lap_started += time.perf_counter() - began
