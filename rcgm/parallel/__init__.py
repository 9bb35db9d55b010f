"""Parallelism, applied to a network from outside: torch's FSDP2, activation checkpointing, compilation by block."""

from rcgm.parallel.apply import (
    blocks_of,
    gather_nothing,
    is_sharded,
    make_mesh,
    parallelize,
    synchronise_gradients,
)
from rcgm.parallel.processes import ProcessLostError, lost_process, process_of, running_processes

__all__ = [
    "ProcessLostError",
    "blocks_of",
    "gather_nothing",
    "is_sharded",
    "lost_process",
    "make_mesh",
    "parallelize",
    "process_of",
    "running_processes",
    "synchronise_gradients",
]
