"""The forms of guidance while training, by name."""

from __future__ import annotations

from rcgm.objectives.guidance import (
    EnhancedTarget,
    Guidance,
    MixedTarget,
    NormalizedTarget,
    SelfEnhancedTarget,
    TeacherEnhancedTarget,
)
from rcgm.objectives.input_guidance import InputGuidance

GUIDANCES: dict[str, type[Guidance]] = {
    "enhanced": EnhancedTarget,
    "ucgm": SelfEnhancedTarget,
    "ucgm_teacher": TeacherEnhancedTarget,
    "tim": MixedTarget,
    "mean_flow": MixedTarget,
    "decm": NormalizedTarget,
    "input": InputGuidance,
}
"""Forms of guidance while training, by their name in a configuration."""
