"""Objectives: one file a paper.

A new one is a subclass of ``Objective`` with a ``residual``, and a line in ``OBJECTIVES``. This module exports
everything that an objective is written with.
"""

# First, so that a new file of this folder can import them from rcgm.objectives too.
from rcgm.engine.combination import PREDICTION, Combination, term
from rcgm.engine.queries import STUDENT, TARGET, TEACHER, Derivative, Queries, Query, Tangent, together
from rcgm.objectives.along_path import AlongPath
from rcgm.objectives.base import Objective, Part
from rcgm.objectives.output import ObjectiveOutput
from rcgm.objectives.point import Point
from rcgm.objectives.residual import RecursiveResidual, Residual
from rcgm.objectives.times import Times, TimeSampler

# isort: split
from rcgm.objectives.alpha_flow import AlphaFlow
from rcgm.objectives.consistency import Consistency
from rcgm.objectives.decm import DECM
from rcgm.objectives.facm import FACM
from rcgm.objectives.flow_matching import FlowMatching
from rcgm.objectives.gaps import AlphaSchedule
from rcgm.objectives.guidance import (
    EnhancedTarget,
    Guidance,
    MixedTarget,
    NormalizedTarget,
    SelfEnhancedTarget,
    TeacherEnhancedTarget,
)
from rcgm.objectives.guidances import GUIDANCES
from rcgm.objectives.improved_mean_flow import ImprovedMeanFlow
from rcgm.objectives.input_guidance import InputGuidance
from rcgm.objectives.mean_flow import MeanFlow
from rcgm.objectives.rcgm import RCGM
from rcgm.objectives.scm import SCM
from rcgm.objectives.self_adversarial import Adversarial, SelfAdversarial
from rcgm.objectives.shortcut import Shortcut
from rcgm.objectives.tim import TiM
from rcgm.objectives.twinflow import TwinFlow
from rcgm.objectives.ucgm import UCGM
from rcgm.objectives.weights import (
    SAMPLE_WEIGHTS,
    BellWeight,
    CosineWeight,
    IntervalWeight,
    InverseTangentWeight,
    RootWeight,
    SampleWeight,
    TangentWeight,
)

OBJECTIVES: dict[str, type[Objective]] = {
    "alpha_flow": AlphaFlow,
    "consistency": Consistency,
    "decm": DECM,
    "facm": FACM,
    "flow_matching": FlowMatching,
    "improved_mean_flow": ImprovedMeanFlow,
    "mean_flow": MeanFlow,
    "rcgm": RCGM,
    "scm": SCM,
    "shortcut": Shortcut,
    "tim": TiM,
    "twinflow": TwinFlow,
    "ucgm": UCGM,
}
"""Objectives, by their name in a configuration."""

__all__ = [
    "DECM",
    "FACM",
    "GUIDANCES",
    "OBJECTIVES",
    "PREDICTION",
    "RCGM",
    "SAMPLE_WEIGHTS",
    "SCM",
    "STUDENT",
    "TARGET",
    "TEACHER",
    "UCGM",
    "Adversarial",
    "AlongPath",
    "AlphaFlow",
    "AlphaSchedule",
    "BellWeight",
    "Combination",
    "Consistency",
    "CosineWeight",
    "Derivative",
    "EnhancedTarget",
    "FlowMatching",
    "Guidance",
    "ImprovedMeanFlow",
    "InputGuidance",
    "IntervalWeight",
    "InverseTangentWeight",
    "MeanFlow",
    "MixedTarget",
    "NormalizedTarget",
    "Objective",
    "ObjectiveOutput",
    "Part",
    "Point",
    "Queries",
    "Query",
    "RecursiveResidual",
    "Residual",
    "RootWeight",
    "SampleWeight",
    "SelfAdversarial",
    "SelfEnhancedTarget",
    "Shortcut",
    "Tangent",
    "TangentWeight",
    "TeacherEnhancedTarget",
    "TiM",
    "TimeSampler",
    "Times",
    "TwinFlow",
    "term",
    "together",
]
