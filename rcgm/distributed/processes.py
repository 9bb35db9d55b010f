"""The processes of a run that torchrun started: joining and leaving their process group."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist

from rcgm.distributed.shares import Processes

__all__ = ["ProcessLostError", "lost_process", "process_of", "running_processes"]

LOST = ("connection closed by peer", "connection reset by peer", "broken pipe", "timed out", "socket", "nccl")


class ProcessLostError(RuntimeError):
    """Another process of the run has ended. The message names the newest checkpoint."""


def process_of() -> Processes:
    """This process among those of the process group; the only one if there is no group."""
    if not dist.is_available() or not dist.is_initialized():
        return Processes()
    return Processes(dist.get_rank(), dist.get_world_size())


@contextlib.contextmanager
def running_processes(device: str) -> Iterator[Processes]:
    """Join the other processes of torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK), and leave them at the end.

    Without such an environment, or with one process, nothing is done. A process group that exists already is used and
    left as it is. CPUs communicate by gloo, GPUs by NCCL.

    A process that leaves with an error does not wait for the others, which may wait for a message that it will never
    send. It closes its connections, and so the others notice.

    Args:
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``, which is CUDA if there is a device.

    Raises:
        ValueError: there are fewer GPUs here than processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield process_of()
        return
    backend = "gloo"
    if device != "cpu" and torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"there are {torch.cuda.device_count()} GPUs here, and torchrun has started more processes: make "
                "--nproc_per_node smaller, or set device=cpu"
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend)
    try:
        yield process_of()
    except BaseException:
        dist.distributed_c10d._abort_process_group()
        raise
    dist.destroy_process_group()


def lost_process(error: BaseException) -> bool:
    """Whether ``error`` is what a collective raises when one of its processes has ended."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in LOST)
