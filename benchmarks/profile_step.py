"""Profiles a training step: which operations take the time, and whether the host waits for the device.

python -m benchmarks.profile_step                    writes benchmarks/results/profile.json
python -m benchmarks.profile_step --trace step.json  and a trace for chrome://tracing or ui.perfetto.dev

One step of RCGM of order 2 on a DiT: B/2 under bfloat16 autocast at ImageNet's latents on a GPU, micro/2 on a CPU. The
numbers are for the pages; ``docs/profile.md`` shows them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import environment
from benchmarks.step_variants import VARIANTS, Bench

VARIANT = "RCGM, order 2, rollout"
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")
WARMUPS, SHOWN = 3, 15


def profiled(step: Callable[[], object], device: torch.device) -> tuple[dict[str, Any], profile]:
    """Counts and times of one call of ``step``, after a few that are not counted."""
    for _ in range(WARMUPS):
        step()
    _finish(device)
    began = time.perf_counter()
    step()
    _finish(device)
    seconds = time.perf_counter() - began
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as recorded:
        step()
    return {"step_ms": 1e3 * seconds, **summary(recorded, device)}, recorded


def summary(recorded: profile, device: torch.device) -> dict[str, Any]:
    """Waits, launches and the operations that take longest, from a recording of one step.

    On a CPU, which nothing waits for, ``waits``, ``launches`` and ``device_ms`` are None, and operations count by their
    time on the host.
    """
    events = recorded.key_averages()
    on_device = device.type == "cuda"
    times = {event.key: (event.self_device_time_total if on_device else event.self_cpu_time_total) for event in events}
    # what is launched, not the operation that launches it: else a kernel counts twice
    counted = [event for event in events if not on_device or event.device_type == torch.autograd.DeviceType.CUDA]
    counted.sort(key=lambda event: -times[event.key])
    total = sum(times[event.key] for event in counted)
    return {
        "waits": sum(event.count for event in events if event.key in WAITS) if on_device else None,
        "launches": sum(event.count for event in events if event.key in LAUNCHES) if on_device else None,
        "device_ms": total / 1e3 if on_device else None,
        "operations": [
            {"name": event.key, "calls": event.count, "ms": times[event.key] / 1e3, "share": times[event.key] / total}
            for event in counted[:SHOWN]
        ],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, help="where to write the whole trace")
    parser.add_argument("--batch", type=int, help="samples a step (default: 64 on a GPU, 8 on a CPU)")
    given = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.type == "cuda"
    preset, shape, dtype = ("B/2", (4, 32, 32), "bfloat16") if gpu else ("micro/2", (4, 16, 16), "float32")
    batch = given.batch or (64 if gpu else 8)
    bench = Bench(preset, shape, device, getattr(torch, dtype))
    variant = next(variant for variant in VARIANTS if variant.name == VARIANT)
    found, recorded = profiled(bench.step(variant, batch), device)
    if given.trace is not None:
        recorded.export_chrome_trace(str(given.trace))
    result = {
        "environment": environment.describe(device), "variant": variant.name, "preset": preset, "shape": shape,
        "batch": batch, "autocast": dtype, **found,
    }  # fmt: skip
    for row in result["operations"]:
        print(f"{row['ms']:9.3f} ms {row['share']:6.1%} {row['calls']:5} x {row['name']}")
    print(f"waits of the host: {result['waits']}; written to {environment.write('profile', result)}")


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
