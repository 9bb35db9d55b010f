"""The threads that run at once, whole clusters of blocks, with their registers and shared memory.

A register holds one value for each thread, as bits in an array. Beside it stands which threads have no value there.
What is computed from a missing value is missing. To use it as an address or a condition, or to store it to global
memory, is an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tests.support.ptx.faults import KernelError, UnknownInstructionError
from tests.support.ptx.formats import DTYPES, PREDICATE, UNSIGNED, bits_of, immediate
from tests.support.ptx.memory import Memory
from tests.support.ptx.text import Code

# Threads of a wave: all of them, which needs no copy, or their numbers.
Lanes: TypeAlias = "slice | NDArray[np.int64]"
ALL = slice(None)
WARP = 32
# Generic addresses with this bit are of shared memory. A shared address of another block of the cluster has that
# block's rank, plus 1, above its lower 24 bits.
SHARED_WINDOW = 1 << 62
RANK_SHIFT = 24


@dataclass(frozen=True)
class Grid:
    """A launch."""

    blocks: int
    threads: int
    cluster: int
    dynamic_shared: int


class Wave:
    def __init__(
        self, code: Code, memory: Memory, parameters: bytes, grid: Grid, first_block: int, blocks: int
    ) -> None:
        self.code, self.memory, self.grid = code, memory, grid
        self.parameters = np.frombuffer(parameters, np.uint8)
        self.blocks, self.threads, self.count = blocks, grid.threads, blocks * grid.threads
        lane = np.arange(self.count)
        self.block, self.thread = lane // grid.threads, lane % grid.threads  # block: number in the wave
        self.first_block = first_block
        self.left = np.zeros(self.count, bool)  # threads that have returned
        self.arrived = np.zeros(self.count, np.int64)  # how often at a barrier of the cluster
        # After how many such arrivals of another block that block has last read the shared memory of each block.
        self.read_after = np.full(blocks, -1)
        self._registers: dict[str, NDArray] = {}
        self._missing: dict[str, NDArray[np.bool_]] = {}
        self._special = self._special_registers()
        self.variables, end = {}, 0
        for name, (alignment, size) in sorted(code.shared.items(), key=lambda item: item[1][1] < 0):
            end = -(-end // alignment) * alignment
            self.variables[name] = end
            end += max(size, 0)
        if code.parameter_bytes > len(parameters):
            raise KernelError(f"{len(parameters)} bytes of parameters for {code.parameter_bytes}")
        self.shared_bytes = -(-(end + grid.dynamic_shared) // 16) * 16
        self.shared_end = end + grid.dynamic_shared
        self.shared = np.zeros((blocks, self.shared_bytes), np.uint8)
        self.shared_written = np.zeros((blocks, self.shared_bytes), bool)

    def number(self, lanes: Lanes) -> int:
        return self.count if isinstance(lanes, slice) else len(lanes)

    def where(self, lane: int) -> str:
        return f"block {self.first_block + int(self.block[lane])}, thread {int(self.thread[lane])}"

    def lanes(self, chosen: NDArray[np.int64]) -> Lanes:
        """Numbers of threads, which are in order; ALL if none is missing."""
        return ALL if len(chosen) == self.count else chosen

    def where_true(self, lanes: Lanes, condition: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The threads among ``lanes`` for which the condition is true."""
        return np.flatnonzero(condition) if isinstance(lanes, slice) else lanes[condition]

    def read(self, operand: str, type_name: str, lanes: Lanes) -> tuple[NDArray, NDArray[np.bool_] | None]:
        """The values of an operand in a type, and which of them are missing. The values may be a view."""
        bits = self._registers.get(operand)
        if bits is None:
            return self._read_other(operand, type_name, lanes)
        missing = self._missing.get(operand)
        if missing is not None:
            missing = missing[lanes]
            missing = missing if missing.any() else None
        return _in_type(bits[lanes], type_name), missing

    def value(self, operand: str, type_name: str, lanes: Lanes, use: str) -> NDArray:
        """The values of an operand where each has to have one, one for each of the lanes."""
        values, missing = self.read(operand, type_name, lanes)
        if missing is not None:
            lane = self.where_true(lanes, np.broadcast_to(missing, self.number(lanes)))[0]
            raise KernelError(f"{operand} has no value but is used as {use}, in {self.where(lane)}")
        return np.broadcast_to(values, self.number(lanes)) if values.ndim == 0 else values

    def write(
        self, operand: str, values: NDArray, lanes: Lanes, missing: NDArray | None = None, signed: bool = False
    ) -> None:
        """Give a register new values, extended or cut to its width. ``values`` belong to the register from here on."""
        if operand == "_":
            return
        declared = self.code.type_of(operand)
        if declared is None:
            raise UnknownInstructionError(f"{operand} as a destination")
        dtype = PREDICATE if declared == "pred" else UNSIGNED[DTYPES[declared].itemsize]
        if signed and values.dtype.itemsize < dtype.itemsize:
            values = values.astype(f"i{dtype.itemsize}")
        bits = bits_of(values)
        bits = bits if bits.dtype == dtype else bits.astype(dtype)
        if isinstance(lanes, slice):
            self._registers[operand] = np.full(self.count, bits) if bits.ndim == 0 else bits
            if missing is None:
                self._missing.pop(operand, None)
            else:
                self._missing[operand] = np.broadcast_to(missing, self.count).copy()
            return
        if operand not in self._registers:
            self._registers[operand] = np.zeros(self.count, dtype)
            self._missing[operand] = np.ones(self.count, bool)
        self._registers[operand][lanes] = bits
        if missing is not None or operand in self._missing:
            self._missing.setdefault(operand, np.zeros(self.count, bool))[lanes] = False if missing is None else missing

    def _read_other(self, operand: str, type_name: str, lanes: Lanes) -> tuple[NDArray, NDArray[np.bool_] | None]:
        if operand in self._special:
            return _in_type(self._special[operand][lanes], type_name), None
        if operand in self.variables:
            return np.array(self.variables[operand], DTYPES[type_name]), None
        if operand in self.code.parameters:
            return np.array(self.code.parameters[operand][0], DTYPES[type_name]), None
        if self.code.type_of(operand) is not None:
            return np.zeros(self.number(lanes), DTYPES[type_name]), np.ones(self.number(lanes), bool)
        if operand.startswith("-") and self.code.type_of(operand[1:]) is not None:
            values, missing = self.read(operand[1:], type_name, lanes)
            return -values, missing
        if operand.startswith("%"):
            raise UnknownInstructionError(operand)
        return immediate(operand, type_name), None

    def _special_registers(self) -> dict[str, NDArray[np.uint32]]:
        grid, block = self.grid, self.first_block + self.block
        same = np.ones(self.count, np.int64)
        registers = {
            "%tid.x": self.thread,
            "%ntid.x": same * grid.threads,
            "%ctaid.x": block,
            "%nctaid.x": same * grid.blocks,
            "%laneid": self.thread % WARP,
            "%warpid": self.thread // WARP,
            "%cluster_ctarank": block % grid.cluster,
            "%cluster_ctaid.x": block % grid.cluster,
            "%cluster_nctarank": same * grid.cluster,
            "%cluster_nctaid.x": same * grid.cluster,
            "%clusterid.x": block // grid.cluster,
            "%nclusterid.x": same * (grid.blocks // grid.cluster),
        }
        for axis in "yz":
            registers |= {f"%{name}.{axis}": same * 0 for name in ("tid", "ctaid", "cluster_ctaid", "clusterid")}
            registers |= {f"%{name}.{axis}": same for name in ("ntid", "nctaid", "cluster_nctaid", "nclusterid")}
        return {name: values.astype(np.uint32) for name, values in registers.items()}


def _in_type(bits: NDArray, type_name: str) -> NDArray:
    """Bits of a register in a type of its width or less."""
    dtype = DTYPES[type_name]
    if bits.dtype == dtype:
        return bits
    if dtype == PREDICATE or bits.dtype == PREDICATE:
        raise UnknownInstructionError(f"a predicate as {type_name}")
    if bits.dtype.itemsize != dtype.itemsize:
        bits = bits.astype(UNSIGNED[dtype.itemsize])
    return bits.view(dtype)


def joined(missing: Sequence[NDArray | None]) -> NDArray | None:
    """Where any of the operands has no value."""
    result = None
    for each in missing:
        if each is not None:
            result = each if result is None else result | each
    return result


def address(operand: str) -> tuple[str, int]:
    """Base and offset of ``[base+offset]``."""
    found = re.fullmatch(r"\[([^+\]]+)(?:\+(-?\d+))?\]", operand)
    if found is None:
        raise UnknownInstructionError(operand)
    return found[1], int(found[2] or 0)


def vector(operand: str) -> list[str]:
    """The registers of ``{a, b}``, or the one without braces."""
    return operand.strip("{}").split(",")
