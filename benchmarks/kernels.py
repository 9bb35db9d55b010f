"""The kernels beside eager torch, torch.compile, published loops, and a plain copy of as many bytes.

    python -m benchmarks.kernels            this machine's CPU, or its GPU if there is one
    python -m benchmarks.kernels --full     every size, order and number format
    python -m benchmarks.kernels --rounds 5 quick, to see that it runs
    python -m benchmarks.kernels --short    three cases: the loss at the largest size and at latents, and the EMA
    python -m benchmarks.kernels --only cosine --threads 1 --name trial    some operations, on one thread

On a CPU each case is timed with one thread and with all cores. Losses are called as a training step calls them.
``floor`` is the time of a copy that moves as many bytes as the operation must: each input read once, each output
written once. On a GPU each of our backends has a row, and small sizes are timed in a CUDA graph too, where nothing is
left but the device's own time. What another variant cannot do is written down as an error and costs no more.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import torch

from benchmarks import environment
from benchmarks.kernel_cases import Case, advance_case, backends, ema_case, interpolate_case
from benchmarks.limits import first_line
from benchmarks.loss_cases import FORMS, METRICS, loss_case, residual_case
from benchmarks.timing import graphed, in_turn, keep_memory, large_allocations, medians, seconds_of_rounds, spread

POINTS, LATENTS, MIDDLE, LARGE = (256, 2), (256, 4, 32, 32), (64, 16, 64, 64), (64, 16, 128, 128)
VIDEO, LARGEST = (4, 16, 21, 60, 104), (256, 16, 128, 128)
MANY_POINTS, ROWS = ((512, 2), (65_536, 2), (1_000_000, 2)), (64, 4096)
"""Small samples, and a matrix: timed on a CPU."""
ALL_ORDERS = tuple(range(9))
FORMATS = (torch.bfloat16, torch.float16, torch.float32)
GRAPH_BYTES = 32 * 2**20
"""Operations that move no more than this are timed in a graph too."""


def cases(device: torch.device, full: bool) -> Iterator[Callable[[], Case]]:
    """What is measured: made one by one, since their tensors are large."""
    gpu = device.type == "cuda"
    shapes = [POINTS, LATENTS, MIDDLE, LARGE, VIDEO, LARGEST] if gpu else [POINTS, LATENTS, MIDDLE]
    if full and not gpu:
        shapes += [LARGE, VIDEO]
    orders = ALL_ORDERS if full else (0, 1, 2, 4, 8) if gpu else (0, 1, 2, 4, 5, 6, 8)
    losses = [(shape, torch.bfloat16, order) for shape in shapes for order in (orders if shape == LATENTS else (2,))]
    if full:
        losses = [(shape, dtype, order) for shape in shapes for dtype in FORMATS for order in orders]
    else:
        losses += [(LATENTS, dtype, 2) for dtype in FORMATS[1:]]
        if not gpu:
            losses += [(shape, dtype, 2) for shape in MANY_POINTS for dtype in (torch.float32, torch.bfloat16)]
            losses += [(ROWS, torch.float32, order) for order in (5, 6)]
    for shape, dtype, order in losses:
        yield lambda shape=shape, dtype=dtype, order=order: loss_case(shape, dtype, device, order)
    for shape in (LATENTS, MIDDLE):
        for name in METRICS:
            yield lambda shape=shape, name=name: loss_case(shape, torch.bfloat16, device, 2, name)
    for shape in shapes if full else (LATENTS, LARGE if gpu else MIDDLE):
        for dtype in FORMATS if full else FORMATS[:1]:
            for name in FORMS:
                yield lambda shape=shape, dtype=dtype, name=name: residual_case(shape, dtype, device, name)
    for make in (interpolate_case, advance_case):
        for shape in shapes if full or gpu else (LATENTS, MIDDLE):
            for dtype in FORMATS if full else FORMATS[:1]:
                yield lambda make=make, shape=shape, dtype=dtype: make(shape, dtype, device)
    yield lambda: ema_case(device, compiled=full or not gpu)


def short_cases(device: torch.device) -> Iterator[Callable[[], Case]]:
    """Those that say most."""
    for shape in (LARGEST if device.type == "cuda" else MIDDLE, LATENTS):
        yield lambda shape=shape: loss_case(shape, torch.bfloat16, device, 2)
    yield lambda: ema_case(device)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="rounds that the medians are taken over (40)")
    parser.add_argument("--full", action="store_true", help="all sizes, orders and number formats")
    parser.add_argument("--short", action="store_true", help="three cases")
    parser.add_argument("--first", type=int, default=None, help="only so many cases")
    parser.add_argument("--only", default="", metavar="TEXT", help="only operations that contain this")
    parser.add_argument("--threads", type=int, nargs="+", help="counts of CPU threads (1, and all cores)")
    parser.add_argument("--name", default=None, help="name of the result file (kernels_cpu or kernels_cuda)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backend", choices=backends(device), help="measure this one alone")
    given = parser.parse_args(arguments)
    keep_memory()
    name = given.name or f"kernels_{device.type}"
    result: dict[str, Any] = {
        "environment": environment.describe(device),
        "rounds": given.rounds,
        "rows": [],
        "errors": [],
    }
    failed = False
    makers = short_cases(device) if given.short else cases(device, given.full)
    for make in list(makers)[: given.first]:
        for threads in given.threads or thread_counts(device):
            if threads is not None:
                torch.set_num_threads(threads)
            torch.compiler.reset()
            case = make()
            if given.only not in case.operation:
                break
            case, errors = able(case.restricted(given.backend, compiled=not given.no_compile))
            rows = [{"threads": threads} | row for row in measure(case, given.rounds, device)]
            for row in rows:
                print_row(row)
            for error in errors:
                print(
                    f"{error['operation']:<24} {error['shape']!s:<22} {error['variant']}: {error['error']}", flush=True
                )
            failed |= any(error["ours"] for error in errors)
            result["rows"] += rows
            result["errors"] += errors
            environment.write(name, result)  # what there is, should the run be cut short
    print(f"written to {environment.write(name, result)}")
    if any(error["ours"] for error in result["errors"]):
        sys.exit(1)


def able(case: Case) -> tuple[Case, list[dict[str, Any]]]:
    """``case`` without the variants that end with an error, and what these say."""
    errors: dict[str, str] = {}
    for name, works in case.variants.items():
        try:
            works[0]()
        except Exception as error:  # what a variant cannot do is a result
            errors[name] = first_line(error)
    told = [
        {"operation": case.operation, "shape": list(case.shape), "dtype": case.dtype, "variant": name, "error": error,
         "ours": name in case.ours}
        for name, error in errors.items()
    ]  # fmt: skip
    return case.without(errors), told


def thread_counts(device: torch.device) -> list[int | None]:
    """One thread and all cores on a CPU; on a GPU threads do not matter."""
    return [None] if device.type == "cuda" else sorted({1, os.cpu_count() or 1})


def measure(case: Case, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Time a case: a row for each of our backends.

    Absolute times are kept for GPUs alone: on a shared CPU only ratios mean something.
    """
    source = torch.empty(max(case.bytes_moved // 2, 1), dtype=torch.uint8, device=device)
    copies = [(source.random_(), torch.zeros_like(source)) for source in [source.clone() for _ in range(case.sets)]]
    variants = {"floor": [lambda a=a, b=b: b.copy_(a) for a, b in copies]} | case.variants
    of_rounds = seconds_of_rounds(
        {name: in_turn(works) for name, works in variants.items()}, rounds=rounds, calls=case.sets, device=device
    )
    seconds = {name: median(values) for name, values in of_rounds.items()}
    in_graph, errors = graph_times(variants, case, rounds, device)
    rows = []
    for backend in case.ours:
        row: dict[str, Any] = {
            "operation": case.operation,
            "shape": list(case.shape),
            "dtype": case.dtype,
            "backend": backend,
            "bytes": case.bytes_moved,
            "times_floor": seconds[backend] / seconds["floor"],
            "share_of_copy": seconds["floor"] / seconds[backend],
            "spread": spread(of_rounds[backend]),
            "times_l2": seconds[backend] / seconds[f"l2 {backend}"] if f"l2 {backend}" in seconds else None,
            "large_allocations": large_allocations(case.variants[backend][0], case.term_bytes),
        }
        for other in ("eager", "compile", "published", "mul and add"):
            row[f"{other.replace(' ', '_')}_over_fused"] = (
                seconds[other] / seconds[backend] if other in seconds else None
            )
        if device.type == "cuda":
            row["microseconds"] = {name: value * 1e6 for name, value in seconds.items()}
            row["graph_microseconds"] = {name: value * 1e6 for name, value in in_graph.items()}
            row["graph_errors"] = errors
            row["clocks_mhz"] = environment.clocks(device)
            row["bytes_per_second"] = case.bytes_moved / seconds[backend]
        rows.append(row)
    return rows


def graph_times(
    variants: dict[str, list[Callable[[], object]]], case: Case, rounds: int, device: torch.device
) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of a call when all sets are one CUDA graph, and the errors of variants that cannot be captured."""
    if device.type != "cuda" or case.bytes_moved > GRAPH_BYTES:
        return {}, {}
    graphs, errors = {}, {}
    for name, works in variants.items():
        try:
            graphs[name] = graphed(works)
        except Exception as error:  # what a variant cannot do is a result
            errors[name] = first_line(error)
    whole = medians(graphs, rounds=rounds, calls=4, device=device) if graphs else {}
    return {name: value / case.sets for name, value in whole.items()}, errors


def print_row(row: dict[str, Any]) -> None:
    def ratio(name: str) -> str:
        value = row[f"{name}_over_fused"]
        return "" if value is None else f"   {name} / fused {value:6.2f}"

    threads = "" if row["threads"] is None else f"{row['threads']} threads "
    l2 = "" if row["times_l2"] is None else f"   {row['times_l2']:6.2f} x L2"
    print(
        f"{row['operation']:<24} {row['shape']!s:<22} {row['dtype']:<9} {row['backend']:<7} {threads}"
        f"{row['times_floor']:6.2f} x floor{ratio('eager')}{ratio('compile')}{ratio('published')}"
        f"{ratio('mul_and_add')}{l2}   large allocations {row['large_allocations']}",
        flush=True,
    )


if __name__ == "__main__":
    main()
