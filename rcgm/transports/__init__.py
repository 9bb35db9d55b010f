"""Transports: how noise and data are mixed along the path, one file each.

A new one is a subclass of ``Transport`` with four functions, and a line in ``TRANSPORTS``.
"""

from rcgm.transports.base import Transport
from rcgm.transports.linear import Linear

TRANSPORTS: dict[str, type[Transport]] = {"linear": Linear}

__all__ = ["TRANSPORTS", "Linear", "Transport"]
