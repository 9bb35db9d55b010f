"""Objectives: one file a paper.

A new one is a subclass of ``Objective`` with a ``residual``, and a line in ``OBJECTIVES``.
"""

from rcgm.objectives.base import Objective, ObjectiveOutput, Residual
from rcgm.objectives.flow_matching import FlowMatching
from rcgm.objectives.guidance import GUIDANCES, EnhancedTarget, Guidance
from rcgm.objectives.point import Point
from rcgm.objectives.rcgm import RCGM

OBJECTIVES: dict[str, type[Objective]] = {"flow_matching": FlowMatching, "rcgm": RCGM}

__all__ = [
    "GUIDANCES",
    "OBJECTIVES",
    "RCGM",
    "EnhancedTarget",
    "FlowMatching",
    "Guidance",
    "Objective",
    "ObjectiveOutput",
    "Point",
    "Residual",
]
