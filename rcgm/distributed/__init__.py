"""Parallelism, applied to a network from outside: torch's FSDP2, activation checkpointing, compilation by block."""

from rcgm.distributed.apply import (
    blocks_of,
    gather_nothing,
    is_sharded,
    make_mesh,
    parallelize,
    synchronise_gradients,
)
from rcgm.distributed.device import choose_device
from rcgm.distributed.processes import ProcessLostError, lost_process, process_of, running_processes
from rcgm.distributed.shares import Processes, Share

__all__ = [
    "ProcessLostError",
    "Processes",
    "Share",
    "blocks_of",
    "choose_device",
    "gather_nothing",
    "is_sharded",
    "lost_process",
    "make_mesh",
    "parallelize",
    "process_of",
    "running_processes",
    "synchronise_gradients",
]
