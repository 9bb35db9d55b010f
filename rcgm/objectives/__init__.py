"""Objectives: one file a paper.

A new one is a subclass of ``Objective`` with a ``residual``, and a line in ``OBJECTIVES``.
"""

from rcgm.objectives.base import Objective, ObjectiveOutput, Residual
from rcgm.objectives.flow_matching import FlowMatching
from rcgm.objectives.guidance import (
    GUIDANCES,
    EnhancedTarget,
    Guidance,
    MixedTarget,
    SelfEnhancedTarget,
    TeacherEnhancedTarget,
)
from rcgm.objectives.point import Point
from rcgm.objectives.rcgm import RCGM
from rcgm.objectives.tim import IntervalWeight, TiM
from rcgm.objectives.ucgm import UCGM

OBJECTIVES: dict[str, type[Objective]] = {
    "flow_matching": FlowMatching,
    "rcgm": RCGM,
    "tim": TiM,
    "ucgm": UCGM,
}

__all__ = [
    "GUIDANCES",
    "OBJECTIVES",
    "RCGM",
    "UCGM",
    "EnhancedTarget",
    "FlowMatching",
    "Guidance",
    "IntervalWeight",
    "MixedTarget",
    "Objective",
    "ObjectiveOutput",
    "Point",
    "Residual",
    "SelfEnhancedTarget",
    "TeacherEnhancedTarget",
    "TiM",
]
