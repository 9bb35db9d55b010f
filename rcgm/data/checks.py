"""Argument checks that several data sets share."""

from __future__ import annotations

import math
import operator


def require_int(name: str, value: object, minimum: int) -> int:
    """Return `value` as an int. TypeError if it is not an integer (a bool is not), ValueError below `minimum`."""
    if isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; it needs an integer of at least {minimum}")
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} is {value!r}; it needs an integer of at least {minimum}") from None
    if number < minimum:
        raise ValueError(f"{name} is {number}; it needs an integer of at least {minimum}")
    return number


def require_non_negative(name: str, value: object) -> float:
    """Return `value` as a float. TypeError if it is not a real number, ValueError if negative or not finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {value!r}; it needs a finite number of at least 0")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} is {value!r}; it needs a finite number of at least 0")
    return float(value)
