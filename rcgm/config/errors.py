"""What is said about a configuration that cannot be used."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["ConfigError", "unknown_name"]


class ConfigError(ValueError):
    """A configuration that cannot be used. The message names every offending key by its dotted path."""


def unknown_name(kind: str, prefix: str, name: str, valid: Iterable[str]) -> str:
    """The complaint about ``prefix.name``: the nearest valid name first, then all of them."""
    valid = sorted(valid)

    def dotted(key: str) -> str:
        return f"{prefix}.{key}" if prefix else key

    if not valid:
        return f"unknown {kind} '{dotted(name)}' (nothing can be set here)"
    nearest = get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"did you mean '{dotted(nearest[0])}'? " if nearest else ""
    return f"unknown {kind} '{dotted(name)}' ({hint}valid: {', '.join(valid)})"
