"""Stopping a run by a signal: the current step is finished and saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Sequence
from datetime import timedelta
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rcgm.distributed.shares import Processes

__all__ = ["StopRequest", "TrainingInterrupted"]


class TrainingInterrupted(Exception):  # noqa: N818 - like KeyboardInterrupt, it is no error
    """The run was asked to stop, and has saved a checkpoint to resume from."""


PATIENCE = timedelta(seconds=10)
"""Time to wait for the pending vote of a failing process. The others started theirs in the same step or before."""


INSISTENT = ("SIGINT", "SIGTERM")
"""Signals that end the run at once when they come a second time."""
WARNINGS = ("SIGHUP", "SIGUSR1", "SIGUSR2")
"""Signals that may come more than once before a run has to end: of a terminal that closes, of a scheduler (Slurm's
``--signal``). One that was ignored from the start, as by nohup, still is."""


class StopRequest:
    """While it is entered, a signal to stop sets ``requested``: SIGINT, SIGTERM, SIGHUP, SIGUSR1 or SIGUSR2.

    After the first, another SIGINT or SIGTERM acts as usual. Python delivers signals to the main thread only, so in
    another thread this does nothing. At its end no vote is pending: a message that arrives while the interpreter ends
    would abort the process.

    Args:
        processes: that train together, and have to stop after the same step.
    """

    def __init__(self, processes: Processes | None = None) -> None:
        self.requested = False
        self._processes = Processes() if processes is None else processes
        self._asked: tuple[Tensor, dist.Work] | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for name in (*INSISTENT, *WARNINGS):
                number = getattr(signal, name, None)  # there are fewer on Windows
                if number is not None and (name in INSISTENT or signal.getsignal(number) != signal.SIG_IGN):
                    self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore(INSISTENT + WARNINGS)
        if kind is None:
            self._outcome()
        else:
            # What ended the run is what is to be told: not that another process is gone too, or does not answer.
            with contextlib.suppress(RuntimeError):
                self._outcome(PATIENCE)

    def agreed(self) -> bool:
        """Whether to stop now; to be called after every step, by all processes, which get the same answer.

        Several processes get the answer to the vote of the step before: it had the time of a step to arrive, so nobody
        waits for it.
        """
        if self._processes.world_size == 1:
            return self.requested
        stop = self._outcome()
        votes = torch.tensor(int(self.requested))  # on the CPU: the device is not waited for
        self._asked = (votes, dist.all_reduce(votes, async_op=True))
        return stop

    def _outcome(self, timeout: timedelta | None = None) -> bool:
        """Result of the pending vote; false without one."""
        if self._asked is None:
            return False
        (votes, work), self._asked = self._asked, None
        work.wait() if timeout is None else work.wait(timeout)
        return bool(votes)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore(INSISTENT)

    def _restore(self, names: Sequence[str]) -> None:
        for number in [number for number in self._previous if signal.Signals(number).name in names]:
            signal.signal(number, self._previous.pop(number))
