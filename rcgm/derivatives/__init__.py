"""Estimators of the total derivative of a network along a path, one file each.

A new one is a subclass of ``Estimator`` with a ``plan``, and a line in ``ESTIMATORS``.
"""

from rcgm.derivatives.auto import Auto
from rcgm.derivatives.central import Central
from rcgm.derivatives.forward_mode import ForwardMode
from rcgm.derivatives.one_sided import OneSided
from rcgm.engine.estimator import Estimator

ESTIMATORS: dict[str, type[Estimator]] = {
    "central": Central,
    "one_sided": OneSided,
    "jvp": ForwardMode,
    "auto": Auto,
}
"""Estimators, by their name in a configuration."""

__all__ = ["ESTIMATORS", "Auto", "Central", "Estimator", "ForwardMode", "OneSided"]
