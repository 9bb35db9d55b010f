"""Instructions that compute: one result of operands in registers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tests.support.ptx.faults import KernelError, UnknownInstructionError
from tests.support.ptx.formats import DTYPES, flushed, is_float, is_signed
from tests.support.ptx.opcodes import Step, computed, decodes, only
from tests.support.ptx.text import Instruction
from tests.support.ptx.wave import Lanes, Wave, joined

ROUNDINGS = ("rn", "rz", "rm", "rp", "approx", "full", "ftz")


def _float_or(of_floats: Callable[..., NDArray], of_integers: Callable[..., NDArray]) -> Callable[[str], Callable]:
    return lambda type_name: of_floats if is_float(type_name) else of_integers


def _same(function: Callable[..., NDArray]) -> Callable[[str], Callable]:
    return lambda type_name: function


def _quotient(a: NDArray, b: NDArray) -> NDArray:
    """Towards zero, without the detour over floating point that would round 64 bits."""
    _refuse_zero(b)
    whole = a // b
    return np.where((whole * b != a) & ((a < 0) != (b < 0)), whole + whole.dtype.type(1), whole)


def _rest(a: NDArray, b: NDArray) -> NDArray:
    _refuse_zero(b)
    return np.fmod(a, b)


def _refuse_zero(divisor: NDArray) -> None:
    if (divisor == 0).any():
        raise KernelError("an integer is divided by zero")


def fused(a: NDArray, b: NDArray, c: NDArray) -> NDArray:
    """a * b + c with one rounding: float32 in float64, float64 from the exact errors of product and sum."""
    if a.dtype == np.float32:
        return (a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)).astype(np.float32)
    product = a * b
    total = product + c
    low = _product_error(a, b, product)
    carried = total - product
    error = (product - (total - carried)) + (c - carried)
    exact = total + (error + low)
    return np.where(np.isfinite(exact) & np.isfinite(total), exact, total)


def _product_error(a: NDArray, b: NDArray, product: NDArray) -> NDArray:
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    return a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)


def _halves(a: NDArray) -> tuple[NDArray, NDArray]:
    """A float64 as the sum of two of 26 bits (Veltkamp)."""
    wide = a * (2.0**27 + 1)
    high = wide - (wide - a)
    return high, a - high


# By name: what computes it in a type, from so many operands of that type.
SAME_TYPE: dict[str, tuple[int, Callable[[str], Callable]]] = {
    "add": (2, _same(np.add)),
    "sub": (2, _same(np.subtract)),
    "min": (2, _float_or(np.fmin, np.minimum)),
    "max": (2, _float_or(np.fmax, np.maximum)),
    "rem": (2, _same(_rest)),
    "and": (2, _same(np.bitwise_and)),
    "or": (2, _same(np.bitwise_or)),
    "xor": (2, _same(np.bitwise_xor)),
    "not": (1, _same(np.invert)),
    "neg": (1, _same(np.negative)),
    "abs": (1, _same(np.abs)),
    "fma": (3, _same(fused)),
    "sqrt": (1, _same(np.sqrt)),
    "rsqrt": (1, _same(lambda a: (1 / np.sqrt(a)).astype(a.dtype))),
    "ex2": (1, _same(np.exp2)),
    "lg2": (1, _same(np.log2)),
    "tanh": (1, _same(np.tanh)),
    "copysign": (2, _same(lambda a, b: np.copysign(b, a))),
}


@decodes(*SAME_TYPE)
def _same_type(instruction: Instruction) -> Step:
    only(instruction, *ROUNDINGS, "NaN")
    count, choose = SAME_TYPE[instruction.name]
    return _computed(instruction, choose(instruction.type), count)


def _computed(instruction: Instruction, function: Callable[..., NDArray], count: int) -> Step:
    if {"rz", "rm", "rp"} & set(instruction.modifiers) or instruction.type in ("f16", "bf16", "f16x2", "bf16x2"):
        raise UnknownInstructionError(instruction.text)
    if "NaN" in instruction.modifiers:
        function = {"min": np.minimum, "max": np.maximum}[instruction.name]
    if "ftz" in instruction.modifiers and instruction.type == "f32":
        inner = function

        def function(*values: NDArray) -> NDArray:
            return flushed(inner(*map(flushed, values)))

    return computed(instruction, function, [instruction.type] * count)


@decodes("div")
def _division(instruction: Instruction) -> Step:
    only(instruction, *ROUNDINGS)
    return _computed(instruction, np.divide if is_float(instruction.type) else _quotient, 2)


@decodes("rcp")
def _reciprocal(instruction: Instruction) -> Step:
    only(instruction, *ROUNDINGS)

    def upper_half(a: NDArray) -> NDArray:  # the approximation of float64 is one of its upper 32 bits
        upper = (a.view(np.uint64) & np.uint64(0xFFFFFFFF00000000)).view(np.float64)
        return (np.asarray(1 / upper).view(np.uint64) & np.uint64(0xFFFFFFFF00000000)).view(np.float64)

    approximate = "approx" in instruction.modifiers and instruction.type == "f64"
    return _computed(instruction, upper_half if approximate else np.reciprocal, 1)


WIDER = {"s16": "s32", "u16": "u32", "s32": "s64", "u32": "u64"}


@decodes("mul", "mad")
def _product(instruction: Instruction) -> Step:
    type_name, adds = instruction.type, instruction.name == "mad"
    if is_float(type_name):
        if adds:
            raise UnknownInstructionError(instruction.text)
        only(instruction, *ROUNDINGS)
        return _computed(instruction, np.multiply, 2)
    only(instruction, "lo", "hi", "wide")
    form, sources = instruction.modifiers[0], [type_name] * 2
    if form == "lo":
        if adds:
            return computed(instruction, lambda a, b, c: a * b + c, [type_name] * 3)
        return computed(instruction, np.multiply, sources)
    wide = WIDER[type_name]
    dtype = DTYPES[wide]
    if form == "hi":
        if adds:
            raise UnknownInstructionError(instruction.text)
        bits = dtype.type(4 * dtype.itemsize)
        return computed(
            instruction, lambda a, b: ((a.astype(dtype) * b.astype(dtype)) >> bits).astype(DTYPES[type_name]), sources
        )
    if adds:
        return computed(instruction, lambda a, b, c: a.astype(dtype) * b.astype(dtype) + c, [*sources, wide], wide)
    return computed(instruction, lambda a, b: a.astype(dtype) * b.astype(dtype), sources, wide)


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


COMPARISONS = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip


@decodes("setp")
def _comparison(instruction: Instruction) -> Step:
    name, *others = instruction.modifiers[:-1]
    others = [other for other in others if other != "ftz"]
    type_name, floats = instruction.type, is_float(instruction.type)
    if floats and name in ("num", "nan"):
        compare = {"num": lambda a, b: ~(np.isnan(a) | np.isnan(b)), "nan": lambda a, b: np.isnan(a) | np.isnan(b)}[
            name
        ]
    elif floats and name.endswith("u"):  # unordered: true where either is NaN
        ordered = COMPARISONS[name[:-1]]
        compare = lambda a, b: ordered(a, b) | np.isnan(a) | np.isnan(b)  # noqa: E731
    elif floats and name == "ne":
        compare = lambda a, b: (a != b) & ~np.isnan(a) & ~np.isnan(b)  # noqa: E731
    else:
        compare = COMPARISONS[name]
    if not others:
        return computed(instruction, compare, [type_name] * 2, "pred")
    combine = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[others[0]]
    return computed(instruction, lambda a, b, c: combine(compare(a, b), c), [type_name, type_name, "pred"], "pred")


@decodes("selp")
def _selection(instruction: Instruction) -> Step:
    only(instruction)
    target, first, second, condition = instruction.operands

    def step(wave: Wave, lanes: Lanes) -> None:
        (chosen, unknown), (a, no_a), (b, no_b) = (
            wave.read(condition, "pred", lanes),
            wave.read(first, instruction.type, lanes),
            wave.read(second, instruction.type, lanes),
        )
        missing = joined([unknown, None if no_a is None else no_a & chosen, None if no_b is None else no_b & ~chosen])
        wave.write(target, np.where(chosen, a, b), lanes, missing, is_signed(instruction.type))

    return step
