"""A plan of memory as text."""

from __future__ import annotations

from rcgm.inspection.memory.plan import HEADROOM, MemoryPlan, Option
from rcgm.inspection.memory.step import PARTS

__all__ = ["GIB", "plan_lines"]

GIB = 2**30


def plan_lines(plan: MemoryPlan) -> list[str]:
    """The plan in lines."""
    cards = "1 GPU" if plan.processes == 1 else f"{plan.processes} GPUs"
    lines = [
        f"{cards} of {plan.memory / GIB:g} GiB, of which {plan.usable / GIB:.1f} are planned with "
        f"({HEADROOM:.0%} are left to libraries and gaps)",
        f"as configured: {_words(plan.configured)}",
        *_parts(plan.configured),
        *([] if plan.configured.problem else ["fits" if plan.fits(plan.configured) else "DOES NOT FIT"]),
        "",
        "the largest micro-batch of a GPU that fits:",
    ]
    for option in plan.largest:
        if option.problem:
            lines.append(f"  activation_checkpointing {option.checkpointing}: cannot be run: {option.problem}")
        elif plan.fits(option):
            lines.append(f"  {_words(option)}: {option.total / GIB:.2f} GiB")
        else:
            lines.append(f"  {_words(option)}: {option.total / GIB:.2f} GiB, does not fit")
    advice = plan.advice()
    if all(option.problem for option in plan.largest):
        lines.append("no step of this configuration could be made: how much memory it takes is not known")
    elif advice is None:
        lines.append("nothing of this fits: take more or larger GPUs, LoRA, or a smaller network")
    elif not plan.fits(plan.configured):
        lines.append(f"fits with parallel.activation_checkpointing={advice[0]} accumulate={advice[1]}")
    return lines


def _words(option: Option) -> str:
    samples = "1 sample" if option.rows == 1 else f"{option.rows} samples"
    return f"activation_checkpointing {option.checkpointing}, {samples} in a micro-batch"


def _parts(option: Option) -> list[str]:
    if option.problem:
        return [f"  cannot be run: {option.problem}"]
    width = max(map(len, PARTS))
    rows = [(part, option.parts[part]) for part in PARTS if option.parts[part]]
    return [f"  {part:<{width}}  {size / GIB:9.3f} GiB" for part, size in [*rows, ("at the peak", option.total)]]
