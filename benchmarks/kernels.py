"""The kernels beside eager torch, torch.compile and a plain copy of as many bytes.

    python -m benchmarks.kernels            this machine's CPU, or its GPU if there is one
    python -m benchmarks.kernels --rounds 5 quick, to see that it runs

Every side runs forward and backward on several sets of tensors in turn, together larger than the last-level cache, as
in a training step, where the network's activations have swept the cache before. ``floor`` is the time of a copy that
moves as many bytes as the operation must: each input read once, each output written once.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import rcgm_kernels
from benchmarks import environment
from benchmarks.timing import in_turn, keep_memory, large_allocations, medians

CACHE_BYTES = 192 * 2**20
LATENTS = {
    "cpu": [(256, 4, 32, 32), (64, 16, 64, 64)],
    "cuda": [(256, 4, 32, 32), (64, 16, 64, 64), (64, 16, 128, 128)],
}


@dataclass(frozen=True)
class Case:
    """One operation at one size: its sides, each a function of the number of a set of tensors."""

    operation: str
    shape: tuple[int, ...]
    dtype: str
    bytes_moved: int
    term_bytes: int
    sides: dict[str, list[Callable[[], object]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="rounds that the medians are taken over (40)")
    parser.add_argument("--name", default=None, help="name of the result file (kernels_cpu or kernels_cuda)")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_memory()
    rows = []
    for shape in LATENTS[device.type]:
        for make in (loss_case, interpolate_case, advance_case):
            rows.append(measure(make(shape, torch.bfloat16, device), arguments.rounds, device))
            print_row(rows[-1])
    rows.append(measure(ema_case(device), arguments.rounds, device))
    print_row(rows[-1])
    name = arguments.name or f"kernels_{device.type}"
    result = {"environment": environment.describe(device), "rounds": arguments.rounds, "rows": rows}
    print(f"written to {environment.write(name, result)}")


def measure(case: Case, rounds: int, device: torch.device) -> dict[str, Any]:
    """Time a case. Absolute times are kept for GPUs alone: on a shared CPU only ratios mean something."""
    source = torch.empty(max(case.bytes_moved // 2, 1), dtype=torch.uint8, device=device)
    copies = [(source.random_(), torch.zeros_like(source)) for source in [source.clone() for _ in range(_sets(case))]]
    sides = {"floor": in_turn([lambda a=a, b=b: b.copy_(a) for a, b in copies])}
    sides |= {name: in_turn(works) for name, works in case.sides.items()}
    seconds = medians(sides, rounds=rounds, calls=_sets(case), device=device)
    row: dict[str, Any] = {
        "operation": case.operation,
        "shape": list(case.shape),
        "dtype": case.dtype,
        "bytes": case.bytes_moved,
        "times_floor": seconds["fused"] / seconds["floor"],
        "eager_over_fused": seconds["eager"] / seconds["fused"],
        "compile_over_fused": seconds["compile"] / seconds["fused"],
        "large_allocations": large_allocations(case.sides["fused"][0], case.term_bytes, device),
    }
    if device.type == "cuda":
        row["microseconds"] = {name: value * 1e6 for name, value in seconds.items()}
    return row


def print_row(row: dict[str, Any]) -> None:
    print(
        f"{row['operation']:<24} {row['shape']!s:<20} {row['dtype']:<9} {row['times_floor']:5.2f} x floor   "
        f"eager / fused {row['eager_over_fused']:6.2f}   compile / fused {row['compile_over_fused']:6.2f}   "
        f"large allocations {row['large_allocations']}",
        flush=True,
    )


def _sets(case: Case) -> int:
    return max(2, math.ceil(CACHE_BYTES / case.bytes_moved))


def loss_case(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, order: int = 2) -> Case:
    """``fused_loss`` with its backward pass: N + 2 tensors are read and one gradient is written."""
    elements = math.prod(shape)
    case = Case(f"fused_loss, order {order}", shape, str(dtype)[6:], (order + 3) * elements * dtype.itemsize,
                elements * dtype.itemsize, {"fused": [], "eager": [], "compile": []})  # fmt: skip
    compiled = torch.compile(eager_loss, dynamic=False)
    for _ in range(_sets(case)):
        pred = torch.randn(shape, device=device, dtype=dtype).requires_grad_()
        segments = [torch.randn(shape, device=device, dtype=dtype) for _ in range(order)]
        velocity = torch.randn(shape, device=device, dtype=dtype)
        t = torch.rand(shape[0], device=device) * 0.9 + 0.05
        times = torch.cat([t[None], (t - 0.01) * torch.linspace(1, 0, order + 1, device=device)[:, None]])

        def step(loss: Callable[..., Tensor], pred=pred, segments=segments, velocity=velocity, times=times) -> None:
            pred.grad = None
            loss(pred, segments, velocity, times).backward()

        case.sides["fused"].append(lambda step=step: step(rcgm_kernels.fused_loss))
        case.sides["eager"].append(lambda step=step: step(eager_loss))
        case.sides["compile"].append(lambda step=step: step(compiled))
    return case


def eager_loss(pred: Tensor, segments: list[Tensor], velocity: Tensor, times: Tensor) -> Tensor:
    """The loss as a training loop writes it: math.md section 2 in float32, with autograd."""

    def per_sample(values: Tensor) -> Tensor:
        return values.reshape(-1, *[1] * (pred.ndim - 1))

    base = pred.detach().float()
    estimate = per_sample(times[0] - times[-1]) * base
    for i, segment in enumerate(segments, 1):
        estimate = estimate - per_sample(times[i] - times[i + 1]) * segment.float()
    residual = (estimate / per_sample(times[0] - times[1]) - velocity.float()).clamp(-1, 1)
    return (pred.float() - (base - residual)).square().mean()


def interpolate_case(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Case:
    """A path point and its velocity: two tensors read, two written."""
    elements = math.prod(shape)
    case = Case("interpolate, 2 points", shape, str(dtype)[6:], 4 * elements * dtype.itemsize,
                elements * dtype.itemsize, {"fused": [], "eager": [], "compile": []})  # fmt: skip

    def eager(x: Tensor, z: Tensor, alpha: Tensor, gamma: Tensor) -> Tensor:
        a, g = (values.reshape(*values.shape, *[1] * (x.ndim - 1)) for values in (alpha, gamma))
        return (a * z.float() + g * x.float()).to(x.dtype)

    compiled = torch.compile(eager, dynamic=False)
    for _ in range(_sets(case)):
        x, z = (torch.randn(shape, device=device, dtype=dtype) for _ in range(2))
        t = torch.rand(shape[0], device=device)
        arguments = (x, z, torch.stack([t, torch.ones_like(t)]), torch.stack([1 - t, -torch.ones_like(t)]))
        case.sides["fused"].append(lambda arguments=arguments: rcgm_kernels.interpolate(*arguments))
        case.sides["eager"].append(lambda arguments=arguments: eager(*arguments))
        case.sides["compile"].append(lambda arguments=arguments: compiled(*arguments))
    return case


def advance_case(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Case:
    """A rollout step into a given tensor: two tensors read, one written."""
    elements = math.prod(shape)
    case = Case("advance", shape, str(dtype)[6:], 3 * elements * dtype.itemsize, elements * dtype.itemsize,
                {"fused": [], "eager": [], "compile": []})  # fmt: skip

    def eager(x: Tensor, velocity: Tensor, t: Tensor, r: Tensor, out: Tensor) -> Tensor:
        return out.copy_(x.float() - (t - r).reshape(-1, *[1] * (x.ndim - 1)) * velocity.float())

    compiled = torch.compile(eager, dynamic=False)
    for _ in range(_sets(case)):
        x, velocity, out = (torch.randn(shape, device=device, dtype=dtype) for _ in range(3))
        t = torch.rand(shape[0], device=device)
        given = (x, velocity, t, t / 2)
        case.sides["fused"].append(lambda given=given, out=out: rcgm_kernels.advance(*given, out=out))
        case.sides["eager"].append(lambda given=given, out=out: eager(*given, out))
        case.sides["compile"].append(lambda given=given, out=out: compiled(*given, out))
    return case


def ema_case(device: torch.device) -> Case:
    """A model's EMA with its bfloat16 copy: average and parameter read, average and copy written."""
    width, depth = (384, 12) if device.type == "cpu" else (1152, 28)
    shapes = [(width, width)] * 4 + [(4 * width, width), (width, 4 * width), (6 * width, width)] + [(width,)] * 6
    shapes *= depth
    elements = sum(math.prod(shape) for shape in shapes)
    case = Case("ema_update_, with bf16", (elements,), "float32", elements * (4 + 4 + 4 + 2), elements * 4,
                {"fused": [], "eager": [], "compile": []})  # fmt: skip

    def eager(averages: list[Tensor], params: list[Tensor], copies: list[Tensor]) -> None:
        torch._foreach_lerp_(averages, params, 0.001)
        torch._foreach_copy_(copies, averages)

    compiled = torch.compile(eager, dynamic=False)
    for _ in range(_sets(case)):
        averages, params = ([torch.randn(shape, device=device) for shape in shapes] for _ in range(2))
        copies = [average.bfloat16() for average in averages]
        given = (averages, params, copies)
        case.sides["fused"].append(lambda g=given: rcgm_kernels.ema_update_(g[0], g[1], 0.999, g[2]))
        case.sides["eager"].append(lambda given=given: eager(*given))
        case.sides["compile"].append(lambda given=given: compiled(*given))
    return case


if __name__ == "__main__":
    main()
