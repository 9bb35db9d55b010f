"""``true`` is no number: pydantic and Python would take it for 1."""

from __future__ import annotations

from typing import Any, get_args

__all__ = ["refuse_truth_values"]


def refuse_truth_values(annotation: Any, value: Any) -> None:
    """Raise ValueError if ``value`` is or holds a truth value, and ``annotation`` allows none."""
    items = value if isinstance(value, (list, tuple)) else (value,)
    for item in items:
        if isinstance(item, bool) and not _allows(annotation):
            raise ValueError(f"must be no truth value; got {str(item).lower()}")


def _allows(annotation: Any) -> bool:
    if annotation in (Any, bool):
        return True
    return any(_allows(part) for part in get_args(annotation) if not isinstance(part, (str, int, float)))
