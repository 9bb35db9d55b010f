"""Shared memory: a block's own, and that of the other blocks of its cluster."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.support.ptx.faults import KernelError
from tests.support.ptx.formats import UNSIGNED
from tests.support.ptx.wave import RANK_SHIFT, SHARED_WINDOW, Lanes, Wave


def shared_load(
    wave: Wave, space: str, addresses: NDArray[np.uint64], size: int, count: int, lanes: Lanes
) -> tuple[NDArray, NDArray | None]:
    """``[count, N]`` values, and which of them have been given none."""
    first = _words(wave, space, addresses, size, count, lanes)
    words = wave.shared.reshape(-1).view(UNSIGNED[size])
    written = wave.shared_written.reshape(-1, size)
    at = first + np.arange(count)[:, None]
    empty = ~written[at].all(-1)
    return words[at], empty if empty.any() else None


def shared_store(
    wave: Wave, space: str, addresses: NDArray[np.uint64], values: NDArray, missing: list[NDArray | None], lanes: Lanes
) -> None:
    """Write ``[count, N]`` values; what has no value leaves none behind."""
    count, size = len(values), values.dtype.itemsize
    first = _words(wave, space, addresses, size, count, lanes)
    words = wave.shared.reshape(-1).view(UNSIGNED[size])
    written = wave.shared_written.reshape(-1, size)
    for k in range(count):
        words[first + k] = values[k]
        written[first + k] = True if missing[k] is None else ~np.broadcast_to(missing[k], len(first))[:, None]


def _words(
    wave: Wave, space: str, addresses: NDArray[np.uint64], size: int, count: int, lanes: Lanes
) -> NDArray[np.int64]:
    """The number of the first word of each access, counted over the shared memory of all blocks of the wave."""
    low = addresses & np.uint64(SHARED_WINDOW - 1)
    ranks = (low >> np.uint64(RANK_SHIFT)).astype(np.int64)
    offsets = (low & np.uint64((1 << RANK_SHIFT) - 1)).astype(np.int64)
    bytes_ = size * count
    if (offsets % bytes_).any():
        raise KernelError(f"shared memory: {bytes_} bytes at {offsets[offsets % bytes_ != 0][0]}")
    if int(offsets.max()) + bytes_ > wave.shared_end:
        raise KernelError(
            f"shared memory: {bytes_} bytes at {offsets.max()}, out of bounds, of {wave.shared_end} bytes"
        )
    blocks = wave.block[lanes]
    if ranks.any():
        if space in ("shared", "shared::cta"):
            raise KernelError("an address in another block's shared memory, used as one in the own")
        if (ranks > wave.grid.cluster).any():
            raise KernelError(f"block {ranks.max() - 1} of a cluster of {wave.grid.cluster}")
        others = blocks // wave.grid.cluster * wave.grid.cluster + ranks - 1
        blocks = np.where(ranks > 0, others, blocks)
        np.maximum.at(wave.read_after, blocks[ranks > 0], wave.arrived[lanes][ranks > 0])
    return (blocks * wave.shared_bytes + offsets) // size
