"""Checks of plain arguments. Each returns the value, or raises an error that names the argument."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable

__all__ = ["boolean", "non_negative_float", "one_of", "positive_float", "whole_number"]


def whole_number(name: str, value: object, minimum: int = 1) -> int:
    """``value`` as an int, if it is a whole number of at least ``minimum``; otherwise TypeError or ValueError."""
    try:
        # bool is an int in Python, and `depth: yes` in YAML is a bool.
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}")
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number


def positive_float(name: str, value: object) -> float:
    """``value`` as a float, if it is a finite number above 0; otherwise TypeError or ValueError."""
    number = _number(name, value)
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")
    return number


def non_negative_float(name: str, value: object) -> float:
    """``value`` as a float, if it is a finite number of at least 0; otherwise TypeError or ValueError."""
    number = _number(name, value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {value}")
    return number


def boolean(name: str, value: object) -> bool:
    """``value``, if it is a bool; otherwise TypeError."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r} of type {type(value).__name__}")
    return value


def one_of(name: str, value: str, known: Iterable[str]) -> str:
    """``value``, if it is among ``known``; otherwise ValueError."""
    known = list(known)
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    return value


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    return float(value)
