"""Transports: how noise and data are mixed along the path, one file each.

A new one is a subclass of ``Transport`` with four functions, and a line in ``TRANSPORTS``.
"""

from rcgm.transports.base import Transport
from rcgm.transports.edm import EDM
from rcgm.transports.linear import Linear
from rcgm.transports.reversed_linear import ReversedLinear
from rcgm.transports.trigflow import TrigFlow
from rcgm.transports.triglinear import TrigLinear
from rcgm.transports.ve import VE
from rcgm.transports.vp import VP

TRANSPORTS: dict[str, type[Transport]] = {
    "linear": Linear,
    "reversed_linear": ReversedLinear,
    "trigflow": TrigFlow,
    "triglinear": TrigLinear,
    "edm": EDM,
    "vp": VP,
    "ve": VE,
}
"""Transports, by their name in a configuration."""

__all__ = ["EDM", "TRANSPORTS", "VE", "VP", "Linear", "ReversedLinear", "Transport", "TrigFlow", "TrigLinear"]
