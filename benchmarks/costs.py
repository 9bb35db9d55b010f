"""What each kernel must move and compute, and so what should limit it on Hopper: the numbers of docs/kernels.md.

Bytes are of device memory, each tensor once (``b`` bytes a stored element, order ``N``, ``P`` points). Operations are
instructions an element for the float units and the conversions between formats, counted in csrc/cuda; addresses and
loops, shared by vectors of 4 or 8 elements, are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.environment import read
from benchmarks.tables import of_result, provenance, table

BANDWIDTH = {"H100": 3.35e12, "H200": 4.8e12}
"""Bytes a second, of the SXM modules' data sheets. A copy is measured to reach about nine tenths."""
MULTIPROCESSORS = 132
INSTRUCTIONS = MULTIPROCESSORS * 128 * 1.755e9
"""Lane instructions a second: multiprocessors, lanes, boost clock."""
LATENCY = 0.7e-6
"""Seconds from a load of device memory to its value while many are under way, about; not measured here."""
LAUNCH = 3e-6
"""Seconds from one kernel of a graph to the next and through its last block, about."""
L2_BANDWIDTH = 5e12
"""Bytes a second, about; not measured here."""
WAITS = (
    ("start of the kernel", 1.5), ("the numbers of a sample, and its coefficients", 0.5), ("the sums of a block", 0.3),
    ("fence, counter and fence", 1.5), ("the sums of the last block", 1.0), ("backward kernel, which returns", 1.7),
)  # fmt: skip
"""Microseconds that the loss of small samples waits in a graph, estimated: 0.2 for a load from the L2 cache, 0.5 for a
fence or an atomic. The tensors come on top."""
NOT_RUN = "not run on a GPU yet"


@dataclass(frozen=True)
class Kernel:
    """A kernel, its two numbers, and what was expected of it.

    Args:
        name, version: what it is, and by which way.
        bytes_formula, operations_formula: as printed.
        bytes_moved, operations: of an element, from its size ``b``, the order ``n`` and the points ``p``.
        share: of the bandwidth of a copy that is expected at large sizes.
        result: operation of the kernel benchmark that measures it; None where no row does.
    """

    name: str
    version: str
    bytes_formula: str
    operations_formula: str
    bytes_moved: Callable[[int, int, int], int]
    operations: Callable[[int, int, int], float]
    share: float
    result: str | None


KERNELS = (
    Kernel("`fused_loss`", "L2: streamed, or several samples a block", "`(N + 3) b`", "`3 N + 9.5`",
           lambda b, n, p: (n + 3) * b, lambda b, n, p: 3 * n + 9.5, 0.9, "fused_loss, order {n}"),
    Kernel("`fused_loss`", "other metrics: residual in shared memory, a block or cluster a sample", "`(N + 3) b`",
           "`3 N + 12.5`", lambda b, n, p: (n + 3) * b, lambda b, n, p: 3 * n + 12.5, 0.8, None),
    Kernel("`fused_loss`", "other metrics: two passes", "`(2 N + 5) b`", "`6 N + 16`",
           lambda b, n, p: (2 * n + 5) * b, lambda b, n, p: 6 * n + 16, 0.85, None),
    Kernel("`fused_loss`", "cosine over channels: residual in shared memory, a block or cluster a sample",
           "`(N + 3) b`", "`3 N + 20`", lambda b, n, p: (n + 3) * b, lambda b, n, p: 3 * n + 20, 0.75, None),
    Kernel("`fused_loss`", "cosine over channels: two passes", "`(2 N + 5) b`", "`6 N + 35`",
           lambda b, n, p: (2 * n + 5) * b, lambda b, n, p: 6 * n + 35, 0.8, None),
    Kernel("backward of the loss", "upstream gradient 1, not float16: returns", "0", "0", lambda b, n, p: 0,
           lambda b, n, p: 0, 1.0, None),
    Kernel("backward of the loss", "another upstream gradient", "`2 b`", "2.5", lambda b, n, p: 2 * b,
           lambda b, n, p: 2.5, 0.9, None),
    Kernel("`interpolate`", "one pass", "`(2 + P) b`", "`2.5 P + 2`", lambda b, n, p: (2 + p) * b,
           lambda b, n, p: 2.5 * p + 2, 0.9, "interpolate, 2 points"),
    Kernel("`advance`", "one pass", "`3 b`", "3.5", lambda b, n, p: 3 * b, lambda b, n, p: 3.5, 0.9, "advance"),
    Kernel("`ema_update_`", "float32, with the bfloat16 copy", "14", "4", lambda b, n, p: 14, lambda b, n, p: 4, 0.88,
           "ema_update_, with bf16"),
)  # fmt: skip

LATENTS, LARGE, XL = (256, 4, 32, 32), (256, 16, 128, 128), (675_000_000,)


def floor(kernel: Kernel, elements: int, gpu: str, *, b: int = 2, n: int = 2, p: int = 2) -> tuple[float, str]:
    """Seconds that the GPU needs at least, and what for: ``"memory"``, ``"instructions"`` or ``"launch"``."""
    needs = {
        "memory": elements * kernel.bytes_moved(b, n, p) / BANDWIDTH[gpu],
        "instructions": elements * kernel.operations(b, n, p) / INSTRUCTIONS,
        "launch": LAUNCH,
    }
    limit = max(needs, key=needs.__getitem__)
    return needs[limit], limit


def numbers_table() -> str:
    """The two numbers of each kernel."""
    rows = [[k.name, k.version, k.bytes_formula, k.operations_formula] for k in KERNELS]
    return table(["kernel", "version", "bytes an element", "operations an element"], rows)


def predictions_table() -> str:
    """What limits each kernel at two sizes, the time expected on an H200, and what came of it."""
    rows = []
    for kernel in KERNELS:
        for shape in (XL,) if kernel.name == "`ema_update_`" else (LATENTS, LARGE):
            elements = math.prod(shape)
            seconds, limit = floor(kernel, elements, "H200")
            expected = seconds / (0.9 * kernel.share) if limit == "memory" else seconds
            rows.append([
                kernel.name, kernel.version, "×".join(map(str, shape)),
                f"{elements * kernel.bytes_moved(2, 2, 2) / 2**20:,.1f}", limit, f"{expected * 1e6:,.1f}",
                f"{kernel.share:.0%}" if limit == "memory" else "", outcome(kernel, shape),
            ])  # fmt: skip
    header = ["kernel", "version", "elements", "MiB moved", "limited by", "expected on an H200, µs"]
    return table([*header, "expected share of copy", "outcome"], rows)


def latents_table() -> str:
    """What a loss of ImageNet's latents in a CUDA graph waits for, one after the other, forward and backward."""
    moved = math.prod(LATENTS) * KERNELS[0].bytes_moved(2, 2, 2)
    waits = [(f"{moved / 2**20:.0f} MiB, from and to the L2 cache", moved / L2_BANDWIDTH * 1e6), *WAITS]
    rows = [[what, f"{microseconds:.1f}"] for what, microseconds in [*waits, ("all", sum(dict(waits).values()))]]
    return f"{table(['wait', 'µs'], rows)}\n\nEstimated, not measured. The goal is 10 µs."


@of_result("kernel_code")
def code_table(found: dict[str, Any]) -> str:
    """What the machine code executes and keeps under way, against what memory takes and needs."""
    rows = []
    for row in found["rows"]:
        kernel = next(each for each in KERNELS if (each.name, each.version) == (row["kernel"], row["version"]))
        of_memory = row["instructions"] / INSTRUCTIONS / (kernel.bytes_moved(2, 2, 2) / BANDWIDTH["H200"])
        under_way = row["bytes_under_way"]
        rows.append([
            kernel.name, kernel.version, f"{row['instructions']:.0f}", f"{of_memory:.0%}", str(row["registers"]),
            f"{row['blocks']} of {row['threads']}", "" if under_way is None else f"{under_way / 1024:.0f}",
        ])  # fmt: skip
    header = ["kernel", "version", "instructions an element", "their time, of that of memory", "registers"]
    needed = BANDWIDTH["H200"] * LATENCY / MULTIPROCESSORS / 1024
    return (
        f"{table([*header, 'blocks a multiprocessor', 'KiB under way'], rows)}\n\n"
        f"Computed, not measured. An H200 needs about {needed:.0f} KiB under way on each multiprocessor: its bandwidth "
        f"times {LATENCY * 1e6:g} µs from a load to its value. {provenance(found)}."
    )


def outcome(kernel: Kernel, shape: tuple[int, ...]) -> str:
    """What the kernel benchmark measured, by backend."""
    found = read("kernels_cuda")
    if found is None:
        return NOT_RUN
    if kernel.result is None:
        return "no row of its own"
    ema, told = kernel.result.startswith("ema"), []
    for row in found["rows"]:
        if row["operation"] != kernel.result.format(n=2):
            continue
        if ema or (row["dtype"] == "bfloat16" and tuple(row["shape"]) == shape):
            times = {**row["microseconds"], **row["graph_microseconds"]}
            told.append(f"{row['backend']} {times[row['backend']]:,.1f} µs, {row['share_of_copy']:.0%}")
    return f"{'; '.join(told)} ({found['environment']['device']})" if told else NOT_RUN


TABLES: Mapping[str, Callable[[], str]] = {
    "kernel_numbers": numbers_table,
    "kernel_predictions": predictions_table,
    "kernel_latents": latents_table,
    "kernel_code": code_table,
}
