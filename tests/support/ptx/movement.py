"""Instructions that move values: between registers, parameters, shared and global memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.support.ptx.faults import KernelError, UnknownInstructionError
from tests.support.ptx.formats import DTYPES, UNSIGNED, bits_of, is_signed
from tests.support.ptx.opcodes import Step, computed, decodes, only
from tests.support.ptx.shared import shared_load, shared_store
from tests.support.ptx.text import Instruction
from tests.support.ptx.wave import RANK_SHIFT, SHARED_WINDOW, Lanes, Wave, address, joined, vector

SPACES = ("param", "global", "shared", "shared::cta", "shared::cluster")
# What says how memory is cached or ordered, which is not modelled.
CACHING = (
    "nc",
    "ca",
    "cg",
    "cs",
    "cv",
    "wb",
    "wt",
    "volatile",
    "relaxed",
    "acquire",
    "release",
    "weak",
    "gpu",
    "sys",
    "cta",
)


@decodes("mov")
def _move(instruction: Instruction) -> Step:
    only(instruction)
    target, source = instruction.operands
    if source.startswith("{"):
        return _pack(instruction, target, vector(source))
    if target.startswith("{"):
        return _unpack(instruction, vector(target), source)
    return computed(instruction, np.array, [instruction.type])


def _pack(instruction: Instruction, target: str, parts: list[str]) -> Step:
    dtype = DTYPES[instruction.type]
    width = dtype.itemsize // len(parts)
    part_type = f"b{8 * width}"

    def step(wave: Wave, lanes: Lanes) -> None:
        read = [wave.read(part, part_type, lanes) for part in parts]
        whole = sum(values.astype(dtype) << dtype.type(8 * width * k) for k, (values, _) in enumerate(read))
        wave.write(target, np.asarray(whole, dtype), lanes, joined([missing for _, missing in read]))

    return step


def _unpack(instruction: Instruction, parts: list[str], source: str) -> Step:
    dtype = DTYPES[instruction.type]
    width = dtype.itemsize // len(parts)

    def step(wave: Wave, lanes: Lanes) -> None:
        values, missing = wave.read(source, instruction.type, lanes)
        for k, part in enumerate(parts):
            wave.write(part, (values >> dtype.type(8 * width * k)).astype(UNSIGNED[width]), lanes, missing)

    return step


@decodes("cvta")
def _generic_address(instruction: Instruction) -> Step:
    only(instruction, "to", "shared", "global")
    if "shared" not in instruction.modifiers:
        return computed(instruction, np.array, [instruction.type])
    if "to" in instruction.modifiers:
        return computed(instruction, lambda a: a & np.uint64(SHARED_WINDOW - 1), ["u64"])
    return computed(instruction, lambda a: a | np.uint64(SHARED_WINDOW), ["u64"])


@decodes("mapa")
def _address_in_block(instruction: Instruction) -> Step:
    """The same shared address in another block of the cluster."""
    only(instruction, "shared::cluster")
    target, own, rank = instruction.operands
    dtype = DTYPES[instruction.type]

    def step(wave: Wave, lanes: Lanes) -> None:
        addresses = wave.value(own, instruction.type, lanes, "an address")
        ranks = wave.value(rank, "u32", lanes, "the rank of a block")
        if (ranks >= wave.grid.cluster).any():
            raise KernelError(f"block {ranks.max()} of a cluster of {wave.grid.cluster}")
        base = addresses & ~dtype.type(0xFF << RANK_SHIFT)
        wave.write(target, base | (ranks.astype(dtype) + dtype.type(1)) << dtype.type(RANK_SHIFT), lanes)

    return step


def _how(instruction: Instruction) -> tuple[str, int]:
    """The state space (``generic`` if none is named) and the number of values of a load or store."""
    space, count = "generic", 1
    for modifier in instruction.modifiers[:-1]:
        if modifier in SPACES:
            space = modifier
        elif modifier in ("v2", "v4", "v8"):
            count = int(modifier[1:])
        elif modifier not in CACHING and not modifier.startswith("L"):
            raise UnknownInstructionError(instruction.text)
    return space, count


@decodes("ld")
def _load(instruction: Instruction) -> Step:
    space, count = _how(instruction)
    targets, (base, offset) = vector(instruction.operands[0]), address(instruction.operands[1])
    if len(targets) != count:
        raise UnknownInstructionError(instruction.text)
    type_name = instruction.type
    dtype, signed = DTYPES[type_name], is_signed(type_name)

    def step(wave: Wave, lanes: Lanes) -> None:
        if (
            space == "param"
            and base not in wave.code.parameters
            and wave.code.type_of(base)
            and not base.startswith("%")
        ):
            values, missing = wave.read(base, type_name, lanes)  # of a function that has been inlined
            wave.write(targets[0], np.array(values), lanes, missing)
            return
        if space == "param":
            addresses = _addresses(wave, base, offset, space, lanes)
            values, empty = _parameters(wave, addresses, dtype.itemsize, count), None
        else:
            values, empty = _load_from(
                wave, space, _addresses(wave, base, offset, space, lanes), dtype.itemsize, count, lanes
            )
        for k, target in enumerate(targets):
            wave.write(target, values[k].view(dtype).copy(), lanes, None if empty is None else empty[k], signed)

    return step


@decodes("st")
def _store(instruction: Instruction) -> Step:
    space, count = _how(instruction)
    (base, offset), sources = address(instruction.operands[0]), vector(instruction.operands[1])
    if len(sources) != count:
        raise UnknownInstructionError(instruction.text)
    type_name = instruction.type

    def step(wave: Wave, lanes: Lanes) -> None:
        if space == "param":
            values, missing = wave.read(sources[0], type_name, lanes)
            wave.write(base, np.array(values), lanes, missing)
            return
        addresses = _addresses(wave, base, offset, space, lanes)
        read = [wave.read(source, type_name, lanes) for source in sources]
        values = np.stack([np.broadcast_to(bits_of(value), len(addresses)) for value, _ in read])
        if space in ("global", "generic") and not _in_shared(addresses, space):
            missing = joined([missing for _, missing in read])
            if missing is not None:
                lane = wave.where_true(lanes, np.broadcast_to(missing, len(addresses)))[0]
                raise KernelError(f"what has no value is stored, in {wave.where(lane)}")
            wave.memory.store(addresses, values)
            return
        shared_store(wave, space, addresses, values, [missing for _, missing in read], lanes)

    return step


def _addresses(wave: Wave, base: str, offset: int, space: str, lanes: Lanes) -> NDArray[np.uint64]:
    narrow = space.startswith("shared") and wave.code.type_of(base) not in ("b64", "u64", "s64")
    values = wave.value(base, "u32" if narrow else "u64", lanes, "an address").astype(np.uint64)
    return values + np.uint64(offset & 0xFFFFFFFFFFFFFFFF)


def _in_shared(addresses: NDArray[np.uint64], space: str) -> bool:
    """Whether generic addresses are of shared memory, all of them or none."""
    inside = addresses >= np.uint64(SHARED_WINDOW)
    if inside.any() and (space == "global" or not inside.all()):
        raise KernelError("an address in shared memory among those of global memory")
    return bool(inside.any())


def _load_from(
    wave: Wave, space: str, addresses: NDArray[np.uint64], size: int, count: int, lanes: Lanes
) -> tuple[NDArray, NDArray | None]:
    if space in ("global", "generic") and not _in_shared(addresses, space):
        return wave.memory.load(addresses, size, count)
    return shared_load(wave, space, addresses, size, count, lanes)


def _parameters(wave: Wave, addresses: NDArray[np.uint64], size: int, count: int) -> NDArray:
    first = addresses.astype(np.int64)
    if (first % (size * count)).any():
        raise KernelError(f"parameters of {size * count} bytes at offset {first[first % (size * count) != 0][0]}")
    if first.min() < 0 or int(first.max()) + size * count > wave.code.parameter_bytes:
        raise KernelError(f"parameters at offsets {first.min()} to {first.max()} of {wave.code.parameter_bytes} bytes")
    data = wave.parameters[first[:, None] + np.arange(size * count)]
    return np.ascontiguousarray(data.reshape(-1, count, size).transpose(1, 0, 2)).view(UNSIGNED[size])[..., 0]


@decodes("atom")
def _atomic(instruction: Instruction) -> Step:
    """One thread after the other, in the order of their numbers."""
    target, where, operand = instruction.operands
    operation = next((each for each in instruction.modifiers if each in ATOMICS), None)
    if operation is None or "global" not in instruction.modifiers:
        raise UnknownInstructionError(instruction.text)
    base, offset = address(where)
    dtype = DTYPES[instruction.type]

    def step(wave: Wave, lanes: Lanes) -> None:
        addresses = _addresses(wave, base, offset, "global", lanes)
        values = wave.value(operand, instruction.type, lanes, "the operand of an atomic")
        before = np.empty(len(addresses), dtype)
        for lane in range(len(addresses)):
            at = addresses[lane : lane + 1]
            (old,), empty = wave.memory.load(at, dtype.itemsize, 1)
            if empty is not None:
                raise KernelError("an atomic on memory without a value")
            before[lane] = old.view(dtype)[0]
            after = ATOMICS[operation](before[lane], values[lane])
            wave.memory.store(at, bits_of(np.array([[after]], dtype)))
        wave.write(target, before, lanes, None, is_signed(instruction.type))

    return step


ATOMICS = {
    "add": lambda old, value: old + value,
    "inc": lambda old, value: 0 if old >= value else old + 1,
    "exch": lambda old, value: value,
    "min": min,
    "max": max,
}
