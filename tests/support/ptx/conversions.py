"""cvt: from type to type."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tests.support.ptx.faults import UnknownInstructionError
from tests.support.ptx.formats import DTYPES, flushed, is_float, narrowed, widened
from tests.support.ptx.opcodes import Step, computed, decodes
from tests.support.ptx.text import Instruction

HALVES = ("f16", "bf16")
WHOLE = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@decodes("cvt")
def _conversion(instruction: Instruction) -> Step:
    *how, target, source = instruction.modifiers
    if not set(how) <= {"rn", "ftz", *WHOLE}:
        raise UnknownInstructionError(instruction.text)
    if target in ("f16x2", "bf16x2"):  # the first source becomes the upper half
        half = target.removesuffix("x2")

        def packed(upper: NDArray, lower: NDArray) -> NDArray:
            return narrowed(upper, half).astype(np.uint32) << np.uint32(16) | narrowed(lower, half).astype(np.uint32)

        return computed(instruction, packed, ["f32", "f32"], target)
    function = _function(how, target, source, instruction.text)
    if "ftz" in how:
        inner = function

        def function(values: NDArray) -> NDArray:
            values = inner(flushed(values) if source == "f32" else values)
            return flushed(values) if target == "f32" else values

    return computed(instruction, function, [source], target)


def _function(how: list[str], target: str, source: str, text: str) -> Callable[[NDArray], NDArray]:
    dtype = DTYPES[target]
    whole = next((WHOLE[each] for each in how if each in WHOLE), None)
    if source in HALVES:
        if not is_float(target):
            raise UnknownInstructionError(text)
        return lambda values: widened(values, source).astype(dtype)
    if target in HALVES:
        if source != "f32":
            raise UnknownInstructionError(text)
        return lambda values: narrowed(values, target)
    if is_float(source) and is_float(target):
        return (lambda values: whole(values).astype(dtype)) if whole else (lambda values: values.astype(dtype))
    if is_float(source):
        if whole is None:
            raise UnknownInstructionError(text)
        return lambda values: _saturated(whole(values), dtype)
    return lambda values: values.astype(dtype)


def _saturated(values: NDArray, dtype: np.dtype) -> NDArray:
    """Whole numbers as integers: the nearest that there is, 0 for NaN."""
    limits = np.iinfo(dtype)
    inside = (values > float(limits.min)) & (values < float(limits.max))
    clamped = np.where(values > 0, dtype.type(limits.max), dtype.type(limits.min))
    return np.where(
        np.isnan(values), dtype.type(0), np.where(inside, np.where(inside, values, 0).astype(dtype), clamped)
    )
