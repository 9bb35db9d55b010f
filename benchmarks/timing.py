"""Timing by turns: every side of a comparison runs once a round, so that a slow moment meets all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from tqdm import tqdm

Work = Callable[[], object]


def medians(sides: dict[str, Work], *, rounds: int, device: torch.device, warmup: int = 3) -> dict[str, float]:
    """Median seconds of each side over ``rounds`` rounds, by device events on a GPU and the host clock elsewhere."""
    for work in sides.values():
        for _ in range(warmup):
            work()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in tqdm(range(rounds), leave=False, unit="round"):
        for name, work in sides.items():
            seconds[name].append(_once(work, device))
    return {name: statistics.median(values) for name, values in seconds.items()}


def _once(work: Work, device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


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
