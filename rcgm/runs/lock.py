"""One run at a time in a folder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import torch.distributed as dist

from rcgm.distributed.shares import Processes

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["held_alone"]


@contextlib.contextmanager
def held_alone(path: Path, processes: Processes) -> Iterator[None]:
    """Hold the lock file ``path`` on rank 0 while the body runs; every process has to make this call.

    The system releases the lock when the process ends, for whatever reason: a file that is left behind locks nothing.
    Without such locks (Windows, some network file systems) nothing is held.

    Raises:
        ValueError: another process holds it, in all ``processes``; the message says which one.
    """
    with contextlib.ExitStack() as stack:
        problem = [_locked(path, stack) if processes.is_main else None]
        if processes.world_size > 1:
            dist.broadcast_object_list(problem)
        if problem[0] is not None:
            raise ValueError(problem[0])
        yield


def _locked(path: Path, stack: contextlib.ExitStack) -> str | None:
    """Lock ``path`` until ``stack`` is closed, or say who has."""
    if fcntl is None:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    # A link that somebody has put there is not followed: what it leads to would be emptied.
    file = stack.enter_context(os.fdopen(os.open(path, flags | os.O_NOFOLLOW, 0o666), "a+", encoding="utf-8"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return f"{_holder(path)} is training in '{path.parent}' right now: let it end, or choose another --output"
    except OSError:
        return None
    file.truncate(0)
    started = datetime.now().isoformat(" ", "seconds")
    file.write(json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": started}))
    file.flush()
    return None  # the file stays: removed, it could be locked by one process, and a new one of its name by another


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['process']} on {holder['host']} (since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
