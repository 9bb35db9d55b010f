"""Instructions in which the threads of a warp exchange values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tests.support.ptx.faults import KernelError, UnknownInstructionError
from tests.support.ptx.formats import DTYPES, is_signed
from tests.support.ptx.opcodes import Step, decodes
from tests.support.ptx.shared import shared_load, shared_store
from tests.support.ptx.text import Instruction
from tests.support.ptx.wave import WARP, Lanes, Wave, address, vector

SOURCES: dict[str, Callable[[NDArray, NDArray], NDArray]] = {
    "bfly": lambda lane, by: lane ^ by,
    "idx": lambda lane, by: by,
    "up": lambda lane, by: lane - by,
    "down": lambda lane, by: lane + by,
}


def members(wave: Wave, lanes: Lanes, masks: NDArray[np.uint32]) -> NDArray[np.int64]:
    """The numbers of the threads that are here; each thread that a mask names has to be, unless it has returned."""
    here = np.arange(wave.count) if isinstance(lanes, slice) else lanes
    lane = wave.thread[here] % WARP
    if not (masks >> lane.astype(np.uint32) & np.uint32(1)).all():
        raise KernelError("a thread takes part in what its mask leaves it out of")
    present = np.zeros(wave.count, bool)
    present[here] = True
    first = here - lane
    for other in range(WARP):
        named = (masks >> np.uint32(other) & np.uint32(1)).astype(bool) & (wave.thread[first] + other < wave.threads)
        absent = named & ~present[np.minimum(first + other, wave.count - 1)]
        if absent.any():
            away = first[absent][0] + other
            if not wave.left[away]:
                raise KernelError(f"{wave.where(away)}, is waited for but is elsewhere")
    return here


@decodes("bar")
def _meeting(instruction: Instruction) -> Step:
    if instruction.modifiers != ("warp", "sync"):
        raise UnknownInstructionError(instruction.text)

    def step(wave: Wave, lanes: Lanes) -> None:
        members(wave, lanes, wave.value(instruction.operands[0], "u32", lanes, "a mask"))

    return step


@decodes("shfl")
def _shuffle(instruction: Instruction) -> Step:
    if instruction.modifiers[0] != "sync":
        raise UnknownInstructionError(instruction.text)
    target, source, by, bound, mask = instruction.operands
    target, _, inside = target.partition("|")
    source_of, upwards = SOURCES[instruction.modifiers[1]], instruction.modifiers[1] == "up"

    def step(wave: Wave, lanes: Lanes) -> None:
        here = members(wave, lanes, wave.value(mask, "u32", lanes, "a mask"))
        lane = wave.thread[here] % WARP
        limit = wave.value(bound, "u32", lanes, "a bound").astype(np.int64)
        segment = limit >> 8 & 31
        lowest, highest = lane & segment, (lane & segment) | (limit & 31 & ~segment)
        given = wave.value(by, "u32", lanes, "a distance").astype(np.int64) & 31
        other = source_of(lane, given)
        if instruction.modifiers[1] == "idx":
            other = lowest | (other & ~segment)
        valid = (other >= highest) if upwards else (other <= highest)
        other = np.where(valid, other, lane)
        values, missing = wave.read(source, instruction.type, lanes)
        all_values, known = np.zeros(wave.count, values.dtype), np.zeros(wave.count, bool)
        all_values[here] = values
        known[here] = True if missing is None else ~missing
        present = np.zeros(wave.count, bool)
        present[here] = True
        at = here - lane + other
        if not present[at].all():
            raise KernelError(f"a value of {wave.where(at[~present[at]][0])}, which is elsewhere")
        wave.write(target, all_values[at], lanes, None if known[at].all() else ~known[at])
        if inside:
            wave.write(inside, valid, lanes)

    return step


REDUCTIONS = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


@decodes("redux")
def _reduction(instruction: Instruction) -> Step:
    if instruction.modifiers[0] != "sync":
        raise UnknownInstructionError(instruction.text)
    target, source, mask = instruction.operands
    combine = REDUCTIONS[instruction.modifiers[1]]

    def step(wave: Wave, lanes: Lanes) -> None:
        here = members(wave, lanes, wave.value(mask, "u32", lanes, "a mask"))
        values = wave.value(source, instruction.type, lanes, "an operand of a reduction")
        result, warps = np.empty(len(here), DTYPES[instruction.type]), here - wave.thread[here] % WARP
        for warp in np.unique(warps):
            result[warps == warp] = combine.reduce(values[warps == warp])
        wave.write(target, result, lanes, None, is_signed(instruction.type))

    return step


@decodes("ldmatrix", "stmatrix")
def _matrix(instruction: Instruction) -> Step:
    """8 by 8 matrices of 16-bit elements; thread 8 k + i of a warp gives the address of row i of matrix k."""
    count = next((int(each[1:]) for each in instruction.modifiers if each in ("x1", "x2", "x4")), None)
    if count is None or "m8n8" not in instruction.modifiers or instruction.type != "b16":
        raise UnknownInstructionError(instruction.text)
    loads, transposed = instruction.name == "ldmatrix", "trans" in instruction.modifiers
    where, registers = instruction.operands[::-1] if loads else instruction.operands
    base, offset = address(where)
    names = vector(registers)

    def step(wave: Wave, lanes: Lanes) -> None:
        if wave.number(lanes) % WARP:
            raise KernelError("part of a warp moves a matrix")
        here = members(wave, lanes, np.full(wave.number(lanes), 0xFFFFFFFF, np.uint32))
        lane = wave.thread[here] % WARP
        values, missing = wave.read(base, "u32", lanes)
        rows, unknown = np.zeros(wave.count, np.uint64), np.ones(wave.count, bool)
        rows[here] = np.broadcast_to(values, len(here)).astype(np.uint64) + np.uint64(offset)
        unknown[here] = False if missing is None else missing
        warp = here - lane
        for k, name in enumerate(names):
            halves, empties = [], []
            bits, nothing = (None, None) if loads else wave.read(name, "b32", lanes)
            for half in range(2):
                i, j = lane // 4, 2 * (lane % 4) + half
                i, j = (j, i) if transposed else (i, j)
                row = warp + 8 * k + i
                if unknown[row].any() or (rows[row] % np.uint64(16)).any():
                    raise KernelError("a row of a matrix without an address, or at one that 16 does not divide")
                at = rows[row] + (2 * j).astype(np.uint64)
                if loads:
                    (element,), empty = shared_load(wave, "shared", at, 2, 1, lanes)
                    halves.append(element.astype(np.uint32) << np.uint32(16 * half))
                    empties.append(empty)
                else:
                    part = (bits >> np.uint32(16 * half)).astype(np.uint16)
                    shared_store(wave, "shared", at, np.broadcast_to(part, len(here))[None], [nothing], lanes)
            if loads:
                lacking = [each[0] for each in empties if each is not None]
                wave.write(name, halves[0] | halves[1], lanes, np.logical_or.reduce(lacking) if lacking else None)

    return step
