"""Whether a run fits the memory of its GPUs, and how it would."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from rcgm.config import ConfigError, TrainConfig
from rcgm.data import DataInfo
from rcgm.inspection.memory.step import PARTS, peak_memory

__all__ = ["CHECKPOINTING", "HEADROOM", "MemoryPlan", "Option", "plan_memory"]

CHECKPOINTING = ("none", "selective", "full")
HEADROOM = 0.1
"""Part of a card's memory that is not planned with: for what the GPU's libraries take, and for gaps between
allocations."""
LARGEST = 4096
"""Samples in a micro-batch, beyond which nobody asks."""
MEASUREMENTS = 8
"""At most, for the largest micro-batch."""
CLOSE = 16
"""A micro-batch that is larger by less than this part is not looked for."""


@dataclass(frozen=True)
class Option:
    """A way to run a step.

    Args:
        checkpointing: of ``parallel.activation_checkpointing``.
        rows: samples in a micro-batch of a process.
        parts: bytes by part at the peak.
        problem: why a step cannot be made so; the other numbers mean nothing then.
    """

    checkpointing: str
    rows: int
    parts: Mapping[str, float]
    problem: str = ""

    @property
    def total(self) -> float:
        """Bytes at the peak."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class MemoryPlan:
    """What :func:`plan_memory` found.

    Args:
        memory: bytes of a card.
        processes: that train together.
        batch_size: of an optimizer step.
        configured: the configuration as it is.
        largest: by checkpointing, the largest micro-batch that fits, or one sample where none does.
    """

    memory: float
    processes: int
    batch_size: int
    configured: Option
    largest: tuple[Option, ...]

    @property
    def usable(self) -> float:
        """Bytes that are planned with."""
        return self.memory * (1 - HEADROOM)

    def fits(self, option: Option) -> bool:
        """Whether a step can be made so."""
        return not option.problem and option.total <= self.usable

    def advice(self) -> tuple[str, int] | None:
        """``activation_checkpointing`` and ``accumulate`` that recompute least and fit the batch; None if none do."""
        for option in self.largest:
            if self.fits(option):
                counts = (n for n in range(1, self.batch_size // self.processes + 1) if self.batch_size % n == 0)
                enough = (n for n in counts if -(-self.batch_size // (n * self.processes)) <= option.rows)
                accumulate = next(enough, None)
                if accumulate is not None:
                    return option.checkpointing, accumulate
        return None

    def plain(self) -> dict[str, Any]:
        """The plan in values that JSON can hold; sizes in bytes."""

        def one(option: Option) -> dict[str, Any]:
            return {
                "activation_checkpointing": option.checkpointing,
                "rows": option.rows,
                "fits": self.fits(option),
                "problem": option.problem,
                "total": round(option.total),
                "parts": {part: round(option.parts[part]) for part in PARTS if part in option.parts},
            }

        advice = self.advice()
        return {
            "memory": round(self.memory),
            "headroom": HEADROOM,
            "gpus": self.processes,
            "batch_size": self.batch_size,
            "configured": one(self.configured),
            "largest": [one(option) for option in self.largest],
            "advice": None
            if advice is None
            else dict(zip(("activation_checkpointing", "accumulate"), advice, strict=True)),
        }


def plan_memory(
    config: TrainConfig,
    info: DataInfo,
    *,
    processes: int = 1,
    memory: float,
    objective: Callable[..., Any] | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> MemoryPlan:
    """The peak memory of a run, and the largest micro-batch that fits by what the backward computes again.

    Args:
        config: fitted to the data.
        info: of the data.
        processes: that train together, at least 1.
        memory: bytes of a card, above 0.
        objective: called as an objective is, instead of that of the configuration.
        on_progress: called with what begins.

    Raises:
        ValueError: for an argument out of range, before any work; or a batch smaller than the processes.
        ConfigError: the network or objective cannot be built.
    """
    if processes < 1:
        raise ValueError(f"gpus must be at least 1, got {processes}")
    if not 0 < memory < math.inf:
        raise ValueError(f"memory must be above 0 and finite, got {memory}")
    if config.batch_size < config.accumulate * processes:
        raise ValueError(
            f"batch_size must be at least {config.accumulate * processes}, a sample of each micro-batch for each of "
            f"{processes} GPUs, got {config.batch_size}"
        )
    say = (lambda text: None) if on_progress is None else on_progress

    def tried(checkpointing: str, rows: int) -> Option:
        say(f"activation_checkpointing {checkpointing}, {rows} samples in a micro-batch")
        changed = config.parallel.model_copy(update={"activation_checkpointing": checkpointing})
        micro_batches = -(-config.batch_size // (rows * processes))
        asked = config.model_copy(update={"parallel": changed, "accumulate": micro_batches})
        try:
            parts = peak_memory(asked, info, processes=processes, rows=rows, objective=objective)
        except ConfigError:
            raise
        except (RuntimeError, ValueError) as error:
            return Option(checkpointing, rows, {}, str(error).partition("\n")[0])
        return Option(checkpointing, rows, parts)

    rows = -(-config.batch_size // (config.accumulate * processes))
    configured = tried(config.parallel.activation_checkpointing, rows)
    usable = memory * (1 - HEADROOM)
    largest = tuple(_largest(partial(tried, kind), usable) for kind in CHECKPOINTING)
    return MemoryPlan(memory, processes, config.batch_size, configured, largest)


def _largest(tried: Callable[[int], Option], usable: float) -> Option:
    """The option of the most rows that fits; that of one row where it does not fit, or cannot be run.

    Memory grows about evenly with the rows. So the number is computed from the last two measurements and measured,
    until it hardly changes.
    """

    def fits(option: Option) -> bool:
        return not option.problem and option.total <= usable

    best = last = tried(1)
    if not fits(best):
        return best
    rows, too_many = 2, LARGEST + 1
    for _ in range(MEASUREMENTS):
        option = tried(rows)
        if fits(option):
            best = max(best, option, key=lambda known: known.rows)
        else:
            too_many = rows
        if option.problem or option.total <= last.total:
            rows = (best.rows + too_many) // 2
        else:
            rows += math.floor((usable - option.total) * (option.rows - last.rows) / (option.total - last.total))
        last = option
        rows = min(max(rows, best.rows), too_many - 1)
        if rows - best.rows <= best.rows // CLOSE:
            break
    return best
