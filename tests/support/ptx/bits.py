"""Instructions that look into the bits of integers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.support.ptx.faults import KernelError
from tests.support.ptx.formats import DTYPES, is_signed
from tests.support.ptx.opcodes import Step, computed, decodes, only
from tests.support.ptx.text import Instruction


@decodes("shl", "shr")
def _shift(instruction: Instruction) -> Step:
    only(instruction)
    dtype, left = DTYPES[instruction.type], instruction.name == "shl"
    width = 8 * dtype.itemsize

    def shifted(a: NDArray, by: NDArray) -> NDArray:
        inside = np.minimum(by, np.uint32(width - 1)).astype(dtype)
        beyond = a >> dtype.type(width - 1) if is_signed(instruction.type) and not left else dtype.type(0)
        return np.where(by < width, a << inside if left else a >> inside, beyond).astype(dtype)

    return computed(instruction, shifted, [instruction.type, "u32"])


@decodes("bfe")
def _bit_field(instruction: Instruction) -> Step:
    only(instruction)
    dtype = DTYPES[instruction.type]
    width = 8 * dtype.itemsize

    def extracted(a: NDArray, start: NDArray, length: NDArray) -> NDArray:
        start, length = (part & np.uint32(0xFF) for part in (start, length))
        if (start + length > width).any() or (length == 0).any():
            raise KernelError("a bit field that is empty or reaches beyond its register")
        return (a << (width - start - length).astype(dtype)) >> (width - length).astype(dtype)

    return computed(instruction, extracted, [instruction.type, "u32", "u32"])


@decodes("popc", "clz", "brev")
def _count(instruction: Instruction) -> Step:
    only(instruction)
    width = 8 * DTYPES[instruction.type].itemsize
    function = {
        "popc": lambda text: text.count("1"),
        "clz": lambda text: width - len(text.lstrip("0")),
        "brev": lambda text: int(text[::-1], 2),
    }[instruction.name]
    result = instruction.type if instruction.name == "brev" else "u32"

    def of_each(a: NDArray) -> NDArray:
        return np.array([function(f"{int(each):0{width}b}") for each in np.atleast_1d(a)], DTYPES[result])

    return computed(instruction, of_each, [f"u{width}"], result)


@decodes("lop3")
def _logic(instruction: Instruction) -> Step:
    only(instruction)
    table = int(instruction.operands[4], 0)

    def looked_up(a: NDArray, b: NDArray, c: NDArray, _: NDArray) -> NDArray:
        result = np.zeros_like(a | b | c)
        for index in range(8):
            if table >> index & 1:
                result |= (a if index & 4 else ~a) & (b if index & 2 else ~b) & (c if index & 1 else ~c)
        return result

    return computed(instruction, looked_up, ["b32"] * 4)


@decodes("prmt")
def _permute(instruction: Instruction) -> Step:
    only(instruction)

    def permuted(a: NDArray, b: NDArray, selector: NDArray) -> NDArray:
        both = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
        result = np.zeros_like(both)
        for k in range(4):
            choice = (selector >> np.uint32(4 * k)).astype(np.uint64) & np.uint64(15)
            byte = both >> (np.uint64(8) * (choice & np.uint64(7))) & np.uint64(0xFF)
            sign = np.where(byte >> np.uint64(7) != 0, np.uint64(0xFF), np.uint64(0))
            result |= np.where(choice & np.uint64(8) != 0, sign, byte) << np.uint64(8 * k)
        return result.astype(np.uint32)

    return computed(instruction, permuted, ["b32", "b32", "b32"])
