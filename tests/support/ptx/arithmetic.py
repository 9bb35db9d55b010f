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
    if instruction.type == "pred" and instruction.name in ("and", "or"):
        return _condition(instruction)
    count, choose = SAME_TYPE[instruction.name]
    return _computed(instruction, choose(instruction.type), count)


def _condition(instruction: Instruction) -> Step:
    """False decides an ``and``, and true an ``or``, whatever the other operand is, or if it is missing."""
    target, first, second = instruction.operands
    decides = instruction.name == "or"
    combine = np.logical_or if decides else np.logical_and

    def step(wave: Wave, lanes: Lanes) -> None:
        (a, no_a), (b, no_b) = wave.read(first, "pred", lanes), wave.read(second, "pred", lanes)
        missing = joined([no_a, no_b])
        if missing is not None:
            known = [
                value == decides if no is None else (value == decides) & ~no for value, no in ((a, no_a), (b, no_b))
            ]
            missing = missing & ~known[0] & ~known[1]
        wave.write(target, np.asarray(combine(a, b)), lanes, missing if missing is not None and missing.any() else None)

    return step


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
