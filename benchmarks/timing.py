"""Interleaved timing: every variant of a comparison runs in every round, so that a slow moment slows all of them.

A round runs a variant several times in a row. Right after another variant, a call would also have to fetch the memory
of the interpreter and the dispatcher, which that variant has pushed out of the cache.
"""

from __future__ import annotations

import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch.profiler import ProfilerActivity
from tqdm import tqdm

from benchmarks.memory import allocations

Work = Callable[[], object]


def medians(variants: dict[str, Work], *, rounds: int, calls: int, device: torch.device) -> dict[str, float]:
    """Median seconds of a call of each variant over ``rounds`` rounds of ``calls`` in a row.

    Device events measure on a GPU, elsewhere the host's clock, or with one thread the processor time.
    """
    for work in variants.values():
        for _ in range(calls):
            work()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in tqdm(range(rounds), leave=False, unit="round"):
        for name, work in variants.items():
            seconds[name].append(_seconds_a_call(work, calls, device))
    return {name: statistics.median(values) for name, values in seconds.items()}


def _seconds_a_call(work: Work, calls: int, device: torch.device) -> float:
    if device.type != "cuda":
        # The time of one thread does not count what other processes took of the core meanwhile.
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        start = clock()
        for _ in range(calls):
            work()
        return (clock() - start) / calls
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(calls):
        work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / calls


def keep_memory() -> None:
    """Let the C library keep what is freed, as GPU allocators do, for all variants alike.

    Else a variant that frees much hands its pages back to the system, and the next variant pays for fetching them.
    """
    if sys.platform == "linux":
        trim_threshold, mmap_threshold = -1, -3
        library = ctypes.CDLL(None)
        for parameter in (trim_threshold, mmap_threshold):
            library.mallopt(parameter, 1 << 30)


def in_turn(works: Sequence[Work]) -> Work:
    """One call runs the next of ``works``: on inputs larger together than the cache, each finds its own cold."""
    position = 0

    def work() -> object:
        nonlocal position
        position = (position + 1) % len(works)
        return works[position]()

    return work


def graphed(works: Sequence[Work]) -> Work:
    """One call replays all of ``works``, captured in one CUDA graph.

    Raises:
        RuntimeError: one of them cannot be captured.
    """
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):  # what is compiled or allocated at the first call must not be captured
        for _ in range(2):
            for work in works:
                work()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for work in works:
            work()
    return graph.replay


def large_allocations(work: Work, at_least: int, device: torch.device) -> int:
    """How many allocations of ``at_least`` bytes or more one call of ``work`` makes."""
    work()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    return sum(size >= at_least for size in allocations(work, activities))
