"""The peak memory of a training step, computed on tensors without content."""

from rcgm.inspection.memory.plan import CHECKPOINTING, HEADROOM, MemoryPlan, Option, plan_memory
from rcgm.inspection.memory.step import PARTS, peak_memories, peak_memory

__all__ = ["CHECKPOINTING", "HEADROOM", "PARTS", "MemoryPlan", "Option", "peak_memories", "peak_memory", "plan_memory"]
