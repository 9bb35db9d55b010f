"""The types of PTX as NumPy's, and the formats that NumPy lacks."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from tests.support.ptx.faults import UnknownInstructionError

UNSIGNED = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16), 4: np.dtype(np.uint32), 8: np.dtype(np.uint64)}
SIGNED = {1: np.dtype(np.int8), 2: np.dtype(np.int16), 4: np.dtype(np.int32), 8: np.dtype(np.int64)}
FLOATS = {4: np.dtype(np.float32), 8: np.dtype(np.float64)}
PREDICATE = np.dtype(bool)
# How values of a type are held. The 16-bit formats are held as their bits; conversions alone look into them.
DTYPES = {
    "pred": PREDICATE,
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
    "f16": UNSIGNED[2],
    "bf16": UNSIGNED[2],
    "f16x2": UNSIGNED[4],
    "bf16x2": UNSIGNED[4],
    **{f"{letter}{8 * size}": dtype for letter in "bu" for size, dtype in UNSIGNED.items()},
    **{f"s{8 * size}": dtype for size, dtype in SIGNED.items()},
}


def is_float(type_name: str) -> bool:
    return type_name in ("f32", "f64")


def is_signed(type_name: str) -> bool:
    return type_name.startswith("s")


def bits_of(values: NDArray) -> NDArray:
    """The bits of values, as unsigned integers of the same width; predicates stay as they are."""
    return values if values.dtype == PREDICATE else values.view(UNSIGNED[values.dtype.itemsize])


def immediate(text: str, type_name: str) -> NDArray:
    """A number of a program's text, as an array without dimensions."""
    dtype = DTYPES[type_name]
    if text in ("true", "false"):
        return np.array(text == "true")
    exact = re.fullmatch(r"0[fFdD]([0-9a-fA-F]+)", text)
    if exact:
        bits = np.array(int(exact[1], 16), UNSIGNED[len(exact[1]) // 2])
        value = bits.view(FLOATS[len(exact[1]) // 2])
        return value.astype(dtype) if is_float(type_name) else bits.astype(dtype)
    if re.fullmatch(r"-?\d+\.\d*(?:[eE][+-]?\d+)?", text):
        return np.array(float(text), dtype)
    try:
        number = int(text.rstrip("U"), 0)
    except ValueError:
        raise UnknownInstructionError(text) from None
    if is_float(type_name):
        return np.array(number, dtype)
    if dtype == PREDICATE:
        return np.array(number != 0)
    return np.array(number & ((1 << 8 * dtype.itemsize) - 1), UNSIGNED[dtype.itemsize]).view(dtype)


def narrowed(values: NDArray, type_name: str) -> NDArray:
    """float32 in a 16-bit format, rounded to the nearest, ties to even: its bits."""
    values = values.astype(np.float32)
    if type_name == "f16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16)
    bits = values.view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FFF), rounded)


def widened(bits: NDArray, type_name: str) -> NDArray:
    """A 16-bit format as float32."""
    if type_name == "f16":
        return bits.astype(np.uint16).view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def flushed(values: NDArray) -> NDArray:
    """float32 without subnormal numbers, as ``.ftz`` has it."""
    return np.where(
        np.abs(values) < np.finfo(np.float32).smallest_normal, np.copysign(values.dtype.type(0), values), values
    )
