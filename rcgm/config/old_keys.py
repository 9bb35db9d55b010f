"""Keys that have another name now: files and checkpoints that hold the old one are read, with a note."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from rcgm.config.errors import ConfigError

__all__ = ["with_new_keys"]


def _interval_weight(value: Any) -> Any:
    return {"name": "interval", **value} if isinstance(value, Mapping) else value


def _weighting(value: Any) -> dict[str, Any] | None:
    return {"weighting": "uniform", "sample_weight": "inverse_tangent"} if value == "inverse_tangent" else None


RENAMED: Mapping[tuple[str, str, str], Callable[[Any], dict[str, Any] | None]] = {
    ("objective", "ucgm", "time_weight"): lambda value: {"sample_weight": value},
    ("objective", "tim", "interval_weight"): lambda value: {"sample_weight": _interval_weight(value)},
    ("objective", "mean_flow", "interval_weight"): lambda value: {"sample_weight": _interval_weight(value)},
    ("objective", "scm", "weighting"): _weighting,
    ("objective.derivative", "auto", "share"): lambda value: {"fraction": value},
}
"""What stands for an old key now, by path, component and key; None where the value has not changed."""


def with_new_keys(section: str, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """``arguments`` of the component ``name`` with old keys replaced by what they are called now, and a note of each.

    Raises:
        ConfigError: an old key stands beside its new one.
    """
    result = dict(arguments)
    for key, value in arguments.items():
        renamed = RENAMED.get((section, name, key))
        now = None if renamed is None else renamed(value)
        if now is None:
            continue
        del result[key]
        both = [f"{section}.{new}" for new in now if new in result]
        if both:
            raise ConfigError(f"{section}.{key} is an old name of {', '.join(both)}: leave the old one out")
        result |= now
        written = ", ".join(f"{section}.{new}: {item!r}" for new, item in now.items())
        warnings.warn(f"{section}.{key}: {value!r} is written {written} now", FutureWarning, stacklevel=2)
    return result
