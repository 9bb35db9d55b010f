"""What the CUDA kernels execute for each element, and how much they keep under way: counted, without a GPU.

    python -m benchmarks.kernel_code        half a minute beside the compilation of the kernels; needs nvcc

The host code launches, and an interpreter runs nvcc's PTX for sm_90 and counts what each thread executes. Moves between
registers and reads of parameters are left out, since machine code has none of them or has them as operands; integers of
64 bits count twice, since it computes them in halves. How many vectors are under way is read from the machine code:
those that a hot loop asks for before it waits for one of them, in as many blocks as fit on a multiprocessor.

The kernels are those of docs/kernels.md with bfloat16, order 2 and 2 points, at samples of 16 x 128 x 128. Two of these
on one multiprocessor are split as 256 are on the 132 of an H200.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm import tqdm

from benchmarks import environment
from benchmarks.costs import KERNELS
from rcgm_kernels.backends import cuda
from rcgm_kernels.options import Metric
from tests.support.cuda_builds import built_extension
from tests.support.cuda_cases import BF16, F32, Case, loss_by
from tests.support.ptx.cuda_device import build, device_in_place
from tests.support.ptx.cuda_runtime import Launched, Runtime
from tests.support.ptx.memory import Memory
from tests.support.ptx.sass import Kernel, Usage, kernels_of_library, loads_under_way, resource_usage
from tests.support.ptx.text import Instruction

CHANNELS, POSITIONS, BATCH, MULTIPROCESSORS = 16, 128 * 128, 2, 1
SIZE = CHANNELS * POSITIONS
REGISTERS, THREADS, SHARED, RESERVED = 65_536, 2_048, 228 << 10, 1 << 10
"""Of a multiprocessor of sm_90; shared memory that the system takes of each block."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Work:
    """A call whose launches are counted, of the kernels of a source.

    ``vectors``: its hot loop reads vectors of 16 bytes, whatever the dtype.
    """

    source: str
    call: Callable[[], object]
    vectors: bool = True
    clusters: bool = True


def loss(channels: int | None = None, **options: Any) -> Callable[[], object]:
    """A loss of order 2, in which every sample has all segments."""
    case = Case(BATCH, SIZE, (BF16,) * 4, times=True, channels=channels, **options)
    inputs = case.inputs()
    times = torch.tensor([1.0, 0.99, 0.5, 0.0])[:, None].expand(4, BATCH).contiguous()
    return lambda: loss_by(cuda, case, inputs._replace(scalars=times))


def works() -> list[Work]:
    """One for each of KERNELS that has something to do."""
    huber = {"metric": Metric("pseudo_huber", c=0.1)}
    cosine = {"metric": Metric("pseudo_huber", c=0.1, cosine=0.5), "channels": CHANNELS}
    gradient, x, z = (torch.randn(BATCH, SIZE, dtype=BF16) for _ in range(3))
    alpha, gamma = torch.rand(2, 2, BATCH)
    average, weights = torch.randn(2, BATCH * SIZE, dtype=F32)
    copy = torch.empty(BATCH * SIZE, dtype=BF16)
    return [
        Work("loss_stream", loss()),
        Work("loss_on_chip", loss(**huber)),
        Work("loss_stream", loss(**huber), vectors=False, clusters=False),
        Work("loss_channels", loss(**cosine)),
        Work("loss_channels", loss(**cosine), clusters=False),
        Work("scale", lambda: cuda.scale_gradient_(gradient, torch.tensor(3.0), torch.ones(0))),
        Work("path", lambda: cuda.interpolate(x, z, alpha, gamma, BF16)),
        Work("path", lambda: cuda.advance_(torch.empty_like(x), x, z, alpha[0], gamma[0])),
        Work("ema", lambda: cuda.ema_update_([average], [weights], 0.999, [copy])),
    ]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    counted = [kernel for kernel in KERNELS if kernel.operations(2, 2, 2)]
    library, rows = built_extension(), []
    usage = {each.kernel: each for each in resource_usage(library) if each.architecture == "sm_90"}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        runtime = Runtime(build(Path(folder)), Memory())
        for kernel, work in tqdm(list(zip(counted, works(), strict=True)), unit="kernel"):
            with device_in_place(runtime, patch):
                runtime.clusters_exist, runtime.multiprocessors = work.clusters, MULTIPROCESSORS
                work.call()
                launches = list(runtime.launches)
            code = {each.name: each for each in kernels_of_library(library, work.source, "sm_90", Path(folder))}
            rows.append(
                {"kernel": kernel.name, "version": kernel.version, **counts(runtime, launches, code, usage, work)}
            )
            result = {"environment": environment.describe(CPU), "rows": rows}
            path = environment.write("kernel_code", result)
    print(f"written to {path}")


def counts(
    runtime: Runtime, launches: list[Launched], code: dict[str, Kernel], usage: dict[str, Usage], work: Work
) -> dict[str, Any]:
    """Instructions an element of all launches; of the one with the most, what is under way on a multiprocessor."""
    executed = [instructions(runtime, launched) for launched in launches]
    largest = launches[executed.index(max(executed))]
    registers, threads = usage[largest.symbol].registers, largest.grid.threads
    blocks = blocks_at_once(largest, registers, static_shared(runtime, largest.symbol))
    result = {
        "launches": [launched.kernel for launched in launches],
        "instructions": sum(executed) / (BATCH * SIZE),
        "registers": registers,
        "threads": threads,
        "blocks": blocks,
        "bytes_under_way": None,
    }
    if work.vectors:
        vectors = max(loads_under_way(loop) for loop in code[largest.symbol].inner_loops())
        result["bytes_under_way"] = 16 * vectors * threads * blocks
    return result


def instructions(runtime: Runtime, launched: Launched) -> int:
    """What all threads executed, as machine code counts it."""
    code = runtime.program(launched.symbol).code.instructions
    return sum(cost(each) * int(times) for each, times in zip(code, launched.executed, strict=True))


def cost(instruction: Instruction) -> int:
    """The instructions of machine code that one of PTX stands for, about."""
    if instruction.name in ("mov", "cvta") or (instruction.name == "ld" and "param" in instruction.modifiers):
        return 0
    accesses = instruction.name in ("ld", "st", "atom", "red")
    return 1 if accesses or not {"s64", "u64", "b64"} & set(instruction.modifiers) else 2


def static_shared(runtime: Runtime, symbol: str) -> int:
    return sum(max(size, 0) for _, size in runtime.program(symbol).code.shared.values())


def blocks_at_once(launched: Launched, registers: int, static: int) -> int:
    """Blocks that a multiprocessor holds; registers are given out to warps in units of 256."""
    warps = -(-launched.grid.threads // 32)
    own = -(-registers * 32 // 256) * 256 * warps
    return min(
        REGISTERS // own,
        THREADS // launched.grid.threads,
        SHARED // (launched.grid.dynamic_shared + static + RESERVED),
        32,
    )


if __name__ == "__main__":
    main()
