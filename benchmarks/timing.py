"""Timing by turns: every side of a comparison runs in every round, so that a slow moment meets all of them.

A round runs a side several times in a row: right after another side, a call would be charged for the interpreter's and the
dispatcher's own memory, which that side swept out of the cache.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from tqdm import tqdm

Work = Callable[[], object]
CALLS = 8  # of one side in a round


def medians(sides: dict[str, Work], *, rounds: int, device: torch.device, warmup: int = 3) -> dict[str, float]:
    """Median seconds of each side over ``rounds`` rounds, by device events on a GPU and the host clock elsewhere."""
    for work in sides.values():
        for _ in range(warmup):
            work()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in tqdm(range(rounds), leave=False, unit="round"):
        for name, work in sides.items():
            seconds[name].append(_seconds_a_call(work, device))
    return {name: statistics.median(values) for name, values in seconds.items()}


def _seconds_a_call(work: Work, device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(CALLS):
            work()
        return (time.perf_counter() - start) / CALLS
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(CALLS):
        work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / CALLS


def in_turn(works: Sequence[Work]) -> Work:
    """One call runs the next of ``works``: on inputs larger together than the cache, each finds its own cold."""
    position = 0

    def work() -> object:
        nonlocal position
        position = (position + 1) % len(works)
        return works[position]()

    return work


def large_allocations(work: Work, at_least: int, device: torch.device) -> int:
    """How many allocations of ``at_least`` bytes or more one call of ``work`` makes."""
    work()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        work()
    events = profiler.profiler.kineto_results.events()
    return sum(event.name() == "[memory]" and event.nbytes() >= at_least for event in events)
