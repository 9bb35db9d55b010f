"""Arguments that are one of several classes: ``transport: trigflow``, ``derivative: {name: central, step: 0.01}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rcgm.derivatives import ESTIMATORS, Estimator
from rcgm.objectives import GUIDANCES, SAMPLE_WEIGHTS, Guidance, SampleWeight
from rcgm.transports import TRANSPORTS, Transport

__all__ = ["FAMILIES", "family_of", "name_of"]

FAMILIES: Mapping[type, Mapping[str, type]] = {
    Transport: TRANSPORTS,
    Estimator: ESTIMATORS,
    Guidance: GUIDANCES,
    SampleWeight: SAMPLE_WEIGHTS,
}


def family_of(annotation: Any) -> Mapping[str, type] | None:
    """The members, by name, of the family that ``annotation`` is the base of."""
    return FAMILIES.get(annotation) if isinstance(annotation, type) else None


def name_of(value: Any) -> str | None:
    """The name of a member of a family; None for other values."""
    for family in FAMILIES.values():
        for name, member in family.items():
            if type(value) is member:
                return name
    return None
