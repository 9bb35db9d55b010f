"""A launch of a kernel: its grid, cut into waves that run one after the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.support.ptx.faults import KernelError
from tests.support.ptx.machine import Program, Run
from tests.support.ptx.memory import Memory
from tests.support.ptx.wave import Grid, Wave

MOST_LANES = 16384  # of a wave: NumPy's arrays stay in the caches
MOST_THREADS, MOST_SHARED, LARGEST_CLUSTER = 1024, 227 << 10, 16  # of sm_90


def launch(program: Program, memory: Memory, parameters: bytes, grid: Grid) -> NDArray[np.int64]:
    """Run a kernel to its end; how many threads ran each of its instructions.

    Raises:
        KernelError: where a GPU would fail, or its result would depend on what nobody wrote.
    """
    if not 0 < grid.threads <= MOST_THREADS or grid.blocks <= 0:
        raise KernelError(f"{grid.blocks} blocks of {grid.threads} threads")
    if not 0 < grid.cluster <= LARGEST_CLUSTER or grid.blocks % grid.cluster:
        raise KernelError(f"clusters of {grid.cluster} in a grid of {grid.blocks} blocks")
    clusters = max(1, MOST_LANES // (grid.threads * grid.cluster))
    executed = np.zeros(len(program.steps), np.int64)
    for first in range(0, grid.blocks, clusters * grid.cluster):
        blocks = min(clusters * grid.cluster, grid.blocks - first)
        wave = Wave(program.code, memory, parameters, grid, first, blocks)
        if wave.shared_end > MOST_SHARED:
            raise KernelError(f"{wave.shared_end} bytes of shared memory")
        executed += Run(program, wave).run()
    return executed
