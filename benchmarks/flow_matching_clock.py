"""Time in steps of flow matching: the same on a fast and a slow machine, a busy and an idle one."""

from __future__ import annotations

from benchmarks.training import STEPS_OF_ALL_KINDS, TEACHER, Task, Training

EVERY = 16
"""Steps between two readings."""


class FlowMatchingClock:
    """Measures a training in the time that a step of flow matching takes on the same network and batch.

    Now and then it makes such a step, beside the training and in the same process, so that both meet with the same
    disturbances.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._reference: Training | None = None
        self._first = 0.0  # seconds of its first step, which makes what later ones use again

    def read(self, training: Training) -> float:
        """How many steps of flow matching ``training`` has taken the time of; 0 while it has just begun."""
        if training.number >= STEPS_OF_ALL_KINDS and training.number % EVERY == 0:
            if self._reference is None:  # not earlier: its memory is not that of the training
                self._reference = Training(self._task, TEACHER, {})
                self._reference.step()
                self._first = self._reference.seconds
            self._reference.step()
        if self._reference is None:
            return 0.0
        return training.seconds * (self._reference.number - 1) / (self._reference.seconds - self._first)
