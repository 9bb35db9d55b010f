"""The most memory that a piece of work held at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity


def high_water(work: Callable[[], object], device: torch.device) -> int:
    """Bytes of tensors at the highest point of ``work`` beyond those at its start.

    On a GPU the caching allocator counts them; elsewhere every allocation and release is taken from the profiler.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        start = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - start
    highest = total = 0
    for size in allocations(work):
        total += size
        highest = max(highest, total)
    return highest


def allocations(work: Callable[[], object]) -> list[int]:
    """Bytes of each allocation and, negative, each release in ``work``, on any device, in their order.

    The profiler records only what the host does: one that has looked at a GPU slows every later launch.

    Now and then the profiler loses the events from some point on. Two marks show it; ``work`` then runs again.

    Raises:
        RuntimeError: the marks were lost in each of five attempts.
    """
    mark = 1_234_567
    for _ in range(5):
        with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            torch.empty(mark, dtype=torch.uint8)
            work()
            torch.empty(mark, dtype=torch.uint8)
        events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
        sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
        if sizes[:2] == [mark, -mark] == sizes[-2:] and len(sizes) >= 4:
            return sizes[2:-2]
    raise RuntimeError("the profiler lost memory events in each of 5 attempts: measure again on a less busy machine")


def held(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of ``tensors``, each counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
