"""Training steps beside one another: flow matching, RCGM, MeanFlow by differences and by Jacobian-vector products.

    python -m benchmarks.steps                          small on a CPU; DiT-B/4 to XL/2 on a GPU
    python -m benchmarks.steps --preset XL/2 --seconds 300
    python -m benchmarks.steps --compiler none          eager only (what a CPU does by default)

A step is all of it: EMA, forward passes without and with gradient, backward pass and AdamW. All variants share one
network and run interleaved. Batches grow until no variant fits or ``--seconds`` a preset are spent. A variant that ends
with an error keeps the error's first line. Memory is that of the state and of the highest point of a step.

``jvp-flash-attention`` takes part where it can be imported: ``PYTHONPATH`` may name the folder that it was unpacked to.
"""

from __future__ import annotations

import argparse
import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import environment, limits
from benchmarks.forward_mode import flash_jvp_missing
from benchmarks.limits import first_line
from benchmarks.memory import high_water
from benchmarks.step_variants import VARIANTS, Bench, Variant
from benchmarks.timing import keep_memory, medians

LATENT = (4, 32, 32)


@dataclass(frozen=True)
class Plan:
    """What is measured: presets with the shape of a sample, batches, and how long."""

    presets: tuple[tuple[str, tuple[int, int, int]], ...]
    batches: tuple[int, ...]
    rounds: int
    seconds: float
    autocast: torch.dtype
    compilers: tuple[str | None, ...]
    variants: tuple[Variant, ...] = VARIANTS


def plan_for(device: torch.device) -> Plan:
    if device.type == "cuda":
        presets = tuple((name, LATENT) for name in ("XL/2", "L/2", "B/2", "B/4"))
        return Plan(presets, (1, 4, 16, 64, 128, 256, 512, 1024), 8, 240.0, torch.bfloat16, (None, "inductor"))
    presets = (("micro/2", (4, 16, 16)), ("tiny/2", (4, 16, 16)))
    return Plan(presets, (4, 32), 9, 100.0, torch.float32, (None,))


def main(arguments: Sequence[str] | None = None) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plan, given = _parse(arguments, device)
    keep_memory()
    result: dict[str, Any] = {
        "environment": environment.describe(device),
        "note": given.note,
        "rounds": plan.rounds,
        "autocast": str(plan.autocast).removeprefix("torch."),
        "limits": limits.attempts(device, "inductor" if device.type == "cuda" else "aot_eager"),
        "rows": [],
    }
    for item in result["limits"]:
        print(f"torch.func.jvp with {item['combination']}: {item['outcome']}", flush=True)
    for preset, shape in plan.presets:
        for rows in measure(preset, shape, plan, device):
            result["rows"] += rows
            print_rows(rows)
            environment.write(given.name, result)  # what there is, should the run be cut short
    print(f"written to {environment.write(given.name, result)}")


def measure(
    preset: str, shape: tuple[int, int, int], plan: Plan, device: torch.device
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each batch of a preset."""
    bench, began = Bench(preset, shape, device, plan.autocast), time.perf_counter()
    failed: dict[tuple[str, str | None], str] = {}
    for batch in plan.batches:
        steps: dict[str, Callable[[], object]] = {}
        rows, peaks = [], {}
        torch.compiler.reset()
        for compiler in plan.compilers:
            for variant in plan.variants:
                key = (variant.name, compiler)
                error = failed.get(key) or unavailable(variant)
                if error is None:
                    step = bench.step(variant, batch, compiler)
                    error, peak = try_step(step, device)
                if error is None:
                    steps[f"{variant.name}/{compiler}"], peaks[key] = step, peak
                else:
                    failed[key] = error
                rows.append({
                    "preset": preset, "batch": batch, "variant": variant.name, "family": variant.family,
                    "compiler": compiler, "error": error,
                })  # fmt: skip
        if not steps:
            return
        seconds = timed(steps, plan.rounds, device)
        state = bench.state_bytes()
        for row in rows:
            finish(row, seconds, peaks, state, device)
        yield rows
        if time.perf_counter() - began > plan.seconds:
            return


def unavailable(variant: Variant) -> str | None:
    return flash_jvp_missing() if variant.flash_jvp else None


def try_step(step: Callable[[], object], device: torch.device) -> tuple[str | None, int]:
    """The error of a step, if it has one, and its highest point of memory."""
    try:
        step()  # the first makes the optimizer's state and compiles
        return None, high_water(step, device)
    except torch.OutOfMemoryError:
        error = "out of memory"
    except Exception as raised:  # what a variant cannot do is a result
        error = first_line(raised)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return error, 0


def timed(steps: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Medians of interleaved steps; short ones run several times in a row."""
    begin = time.perf_counter()
    next(iter(steps.values()))()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    calls = min(10, max(1, math.ceil(0.03 / (time.perf_counter() - begin))))
    return medians(steps, rounds=rounds, calls=calls, device=device)


def finish(
    row: dict[str, Any], seconds: dict[str, float], peaks: dict[tuple[str, str | None], int], state: int,
    device: torch.device,
) -> None:  # fmt: skip
    """Add what was measured. Absolute times are kept for GPUs alone: on a shared CPU only ratios mean something."""
    own = seconds.get(f"{row['variant']}/{row['compiler']}")
    flow = seconds.get(f"flow matching/{row['compiler']}")
    row["times_flow_matching"] = own / flow if own and flow else None
    row["relative_time"] = own / next(iter(seconds.values())) if own else None
    row["state_bytes"] = state
    row["peak_bytes"] = state + peaks[row["variant"], row["compiler"]] if own else None
    if own and device.type == "cuda":
        row["milliseconds"] = own * 1e3
        row["images_per_second"] = row["batch"] / own


def print_rows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        head = f"{row['preset']:<8} batch {row['batch']:<5} {row['variant']:<36} {row['compiler'] or 'eager':<9}"
        if row["error"] is not None:
            print(f"{head} {row['error']}")
        elif row["times_flow_matching"] is not None:
            speed = f"   {row['images_per_second']:9.1f} images/s" if "images_per_second" in row else ""
            memory = f"{row['peak_bytes'] / 2**20:9.1f} MiB"
            print(f"{head} {row['times_flow_matching']:6.2f} x flow matching   {memory}{speed}")
    print(end="", flush=True)


def _parse(arguments: Sequence[str] | None, device: torch.device) -> tuple[Plan, argparse.Namespace]:
    usual = plan_for(device)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", action="append", help="a DiT preset; may be repeated")
    parser.add_argument("--batches", type=int, nargs="+", default=usual.batches)
    parser.add_argument("--rounds", type=int, default=usual.rounds)
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="a preset")
    parser.add_argument("--compiler", choices=("none", "inductor", "aot_eager", "both"), default=None)
    names = [variant.name for variant in VARIANTS]
    parser.add_argument("--variant", nargs="+", choices=names, default=names, help="rows; all by default")
    parser.add_argument("--note", default="", help="kept with the result")
    parser.add_argument("--name", default=f"steps_{device.type}", help="name of the result file")
    given = parser.parse_args(arguments)
    shape = usual.presets[0][1]
    compilers = {None: usual.compilers, "none": (None,), "both": (None, "inductor")}.get(
        given.compiler, (given.compiler,)
    )
    presets = usual.presets if given.preset is None else tuple((name, shape) for name in given.preset)
    variants = tuple(variant for variant in VARIANTS if variant.name in given.variant)
    plan = Plan(presets, tuple(given.batches), given.rounds, given.seconds, usual.autocast, compilers, variants)
    return plan, given


if __name__ == "__main__":
    # Every batch and form has graphs of its own; past the limit a variant would run uncompiled without a word.
    torch._dynamo.config.recompile_limit = 64
    main()
