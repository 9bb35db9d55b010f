"""The most memory that a piece of work held at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


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
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    highest = total = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        highest = max(highest, total)
    return highest


def held(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of ``tensors``, each counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
