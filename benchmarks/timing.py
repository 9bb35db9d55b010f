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
from tqdm import tqdm

from benchmarks.memory import allocations

Work = Callable[[], object]

CYCLES_A_SECOND = 2.0e9
"""About the highest clock of an H100; with a slower one the wait is longer."""
LONGEST_WAIT = 0.2
"""Seconds."""


def medians(variants: dict[str, Work], *, rounds: int, calls: int, device: torch.device) -> dict[str, float]:
    """Medians of :func:`seconds_of_rounds`."""
    seconds = seconds_of_rounds(variants, rounds=rounds, calls=calls, device=device)
    return {name: statistics.median(values) for name, values in seconds.items()}


def seconds_of_rounds(
    variants: dict[str, Work], *, rounds: int, calls: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of a call of each variant in each of ``rounds`` rounds of ``calls`` in a row.

    Device events measure on a GPU, elsewhere the host's clock, or with one thread the processor time.
    """
    issuing = {}
    for name, work in variants.items():
        work()
        issuing[name] = _seconds_to_issue(work, calls, device)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in tqdm(range(rounds), leave=False, unit="round"):
        for name, work in variants.items():
            if device.type == "cuda":
                seconds[name].append(_seconds_on_gpu(work, calls, issuing[name]))
            else:
                seconds[name].append(_seconds_on_cpu(work, calls))
    return seconds


def spread(seconds: Sequence[float]) -> float:
    """The middle half of the values is this wide, as a share of their median; 0 for a single value."""
    if len(seconds) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return (high - low) / middle


def _seconds_to_issue(work: Work, calls: int, device: torch.device) -> float:
    """Seconds that the host takes for ``calls`` calls, which warm the variant up."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return time.perf_counter() - start


def _seconds_on_cpu(work: Work, calls: int) -> float:
    # The time of one thread does not count what other processes took of the core meanwhile.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    for _ in range(calls):
        work()
    return (clock() - start) / calls


def _seconds_on_gpu(work: Work, calls: int, issuing: float) -> float:
    """The GPU waits until all calls are in its queue: what the host needs for them is not charged to the kernels.

    A queue holds about a thousand launches. Where the calls are more than that, the host must keep up with the rest.
    """
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(int(min(1.5 * issuing, LONGEST_WAIT) * CYCLES_A_SECOND))
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


def large_allocations(work: Work, at_least: int) -> int:
    """How many allocations of ``at_least`` bytes or more one call of ``work`` makes."""
    work()
    return sum(size >= at_least for size in allocations(work))
