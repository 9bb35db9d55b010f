"""Global memory: the storages of CPU tensors, with their bounds, what may be written, and what has been."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.support.ptx.faults import KernelError
from tests.support.ptx.formats import UNSIGNED


@dataclass
class Allocation:
    """Memory of one storage; ``written`` tells which bytes have a value (None: all)."""

    name: str
    address: int
    data: NDArray[np.uint8]
    writable: bool
    written: NDArray[np.bool_] | None
    owner: object  # kept alive, so that nothing else gets the address

    @property
    def end(self) -> int:
        return self.address + len(self.data)


class Memory:
    """What kernels may reach. Addresses are those of the tensors."""

    def __init__(self) -> None:
        self._allocations: dict[int, Allocation] = {}
        self._starts = np.zeros(0, np.uint64)
        self._sorted: list[Allocation] = []

    def add(self, tensor: Tensor, name: str, *, writable: bool, fresh: bool = False) -> None:
        """Let kernels reach the storage of a CPU tensor.

        What was added before keeps whether it may be written, and what of it has been.

        Args:
            fresh: nothing in it has a value yet.
        """
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if size == 0 or address in self._allocations:
            return
        assert address % 16 == 0, "torch aligns what it allocates"
        data = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
        written = np.zeros(size, bool) if fresh else None
        self._allocations[address] = Allocation(f"{name} ({size} bytes)", address, data, writable, written, storage)
        self._sorted = [self._allocations[start] for start in sorted(self._allocations)]
        self._starts = np.array([each.address for each in self._sorted], np.uint64)

    def clear(self) -> None:
        """Forget everything."""
        self.__init__()

    def load(self, addresses: NDArray[np.uint64], size: int, count: int) -> tuple[NDArray, NDArray | None]:
        """``count`` values of ``size`` bytes from each address, ``[count, N]``, and which of them have no value."""
        values = np.empty((count, len(addresses)), UNSIGNED[size])
        empty = np.zeros((count, len(addresses)), bool)
        for allocation, chosen in self._found(addresses, size * count, "load"):
            first = self._first(allocation, addresses[chosen], size)
            words = _words(allocation.data, size)
            for k in range(count):
                values[k, chosen] = words[first + k]
                if allocation.written is not None:
                    empty[k, chosen] = ~_all_of(allocation.written, size)[first + k]
        return values, empty if empty.any() else None

    def store(self, addresses: NDArray[np.uint64], values: NDArray) -> None:
        """Write ``[count, N]`` values, ``count`` one behind the other at each address."""
        count, size = len(values), values.dtype.itemsize
        for allocation, chosen in self._found(addresses, size * count, "store"):
            if not allocation.writable:
                raise KernelError(f"store to {allocation.name}, which is only to be read")
            first = self._first(allocation, addresses[chosen], size)
            words = _words(allocation.data, size)
            for k in range(count):
                words[first + k] = values[k, chosen]
                if allocation.written is not None:
                    allocation.written[: len(words) * size].reshape(-1, size)[first + k] = True

    def _first(self, allocation: Allocation, addresses: NDArray[np.uint64], size: int) -> NDArray[np.int64]:
        return ((addresses - np.uint64(allocation.address)) // np.uint64(size)).astype(np.int64)

    def _found(
        self, addresses: NDArray[np.uint64], size: int, what: str
    ) -> list[tuple[Allocation, slice | NDArray[np.bool_]]]:
        """The allocations that the addresses lie in, each with those addresses."""
        if (addresses % np.uint64(size)).any():
            wrong = addresses[addresses % np.uint64(size) != 0][0]
            raise KernelError(f"{what} of {size} bytes at {int(wrong):#x}, which is not a multiple of {size}")
        at = np.searchsorted(self._starts, addresses, side="right") - 1
        lowest = int(at.min())
        if lowest == int(at.max()):
            parts = [(lowest, slice(None))]
        else:
            parts = [(int(index), at == index) for index in np.unique(at)]
        found = []
        for index, chosen in parts:
            last = int(addresses[chosen].max())
            if index < 0 or last + size > self._sorted[index].end:
                near = (
                    f"{last - self._sorted[index].address} bytes into {self._sorted[index].name}" if index >= 0 else ""
                )
                raise KernelError(f"{what} of {size} bytes out of bounds, at {last:#x} {near}".rstrip())
            found.append((self._sorted[index], chosen))
        return found


def _words(data: NDArray[np.uint8], size: int) -> NDArray:
    return data[: len(data) // size * size].view(UNSIGNED[size])


def _all_of(written: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    return written[: len(written) // size * size].reshape(-1, size).all(1)
