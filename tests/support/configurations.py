"""The smallest configuration that parses."""

from __future__ import annotations

from rcgm.config import TrainConfig, apply_overrides, parse_config

MINIMAL = {
    "steps": 10,
    "batch_size": 8,
    "data": {"name": "two_moons", "size": 100},
    "model": {"name": "mlp", "width": 8},
    "objective": {"name": "rcgm"},
}


def parse(*overrides: str) -> TrainConfig:
    """``MINIMAL`` with ``section.key=value`` overrides."""
    return parse_config(apply_overrides(MINIMAL, overrides))
