"""Compares every kernel with float64, by size class, number format and backend of this machine.

    python -m benchmarks.accuracy     prints the worst error of each, in units of what is allowed; exit code 1 above 1

Allowed are one rounding of the stored format and what float32 arithmetic leaves of a residual that is a difference
divided by ``dt``, both relative to the largest element.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

import rcgm_kernels
from benchmarks import environment
from benchmarks.kernel_cases import backends
from rcgm_kernels import AdaptiveWeight, Metric

SIZES = {
    "several samples a block": (256, 2),
    "odd": (33, 301),
    "a block a sample": (16, 4, 32, 32),
    "a cluster a sample": (3, 16, 64, 64),
    "large": (2, 300_001),
    "video": (1, 16, 5, 60, 104),
    "beyond a cluster": (1, 1_200_000),
}
FORMATS = (torch.bfloat16, torch.float16, torch.float32)
LOSSES: dict[str, dict[str, Any]] = {
    "l2": {},
    "pseudo_huber": {"metric": "pseudo_huber"},
    "barron": {"metric": "barron"},
    "cosine": {"metric": Metric(cosine=0.5)},
    "adaptive": {"adaptive": AdaptiveWeight(0.5)},  # with power 1 gradients of large samples leave float16
}
ORDERS = (0, 2, 8)
DT = 0.01
ARITHMETIC = 64 * torch.finfo(torch.float32).eps / DT


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default=None, help="name of the result file (accuracy_cpu or accuracy_cuda)")
    parser.add_argument("--largest", type=int, default=None, help="leave out samples of more elements than this")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backend", choices=backends(device), help="check this one alone")
    given = parser.parse_args(arguments)
    result: dict[str, Any] = {"environment": environment.describe(device), "passed": False, "rows": []}
    for rows in checks(device, given.largest, given.backend):
        result["rows"] += rows
        environment.write(given.name or f"accuracy_{device.type}", result)  # what there is, should the run be cut short
        for row in rows:
            if not row["error"] <= 1:
                print(f"FAILED {row}", flush=True)
    rows = result["rows"]
    passed = result["passed"] = all(row["error"] <= 1 for row in rows)
    environment.write(given.name or f"accuracy_{device.type}", result)
    worst = max(rows, key=lambda row: row["error"])
    print(f"{len(rows)} checks, the worst at {worst['error']:.2f} of what is allowed: {worst}")
    sys.exit(not passed)


def checks(
    device: torch.device, largest: int | None = None, backend: str | None = None
) -> Iterator[list[dict[str, Any]]]:
    """The rows of each backend, size class and format, one for each operation: ``error``, over what is allowed."""
    generator = torch.Generator(device).manual_seed(0)
    chosen = backends(device) if backend is None else (backend,)
    for backend, (size, shape), dtype in itertools.product(chosen, SIZES.items(), FORMATS):
        if largest is None or math.prod(shape[1:]) <= largest:
            yield [
                {"backend": backend, "size": size, "shape": list(shape), "dtype": str(dtype)[6:],
                 "operation": name, "error": error}
                for name, error in _errors(backend, shape, dtype, device, generator)
            ]  # fmt: skip


def _errors(
    backend: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> Iterator[tuple[str, float]]:
    def drawn() -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    x, z, velocity, pred = (drawn() for _ in range(4))
    t = torch.rand(shape[0], generator=generator, device=device) * 0.9 + 0.05
    for order, (name, options) in itertools.product(ORDERS, LOSSES.items()):
        segments = [drawn() for _ in range(order)]
        start = (t - DT) if order else torch.zeros_like(t)
        times = torch.cat([t[None], start * torch.linspace(1, 0, order + 1, device=device)[:, None]])
        weight = torch.rand(shape[0], generator=generator, device=device) + 0.5
        found = _loss(pred, segments, velocity, times, weight, backend, options)
        exact = _loss(pred.double(), [part.double() for part in segments], velocity.double(), times.double(), weight,
                      "reference", options)  # fmt: skip
        yield f"fused_loss, order {order}, {name}, value", _error(found[0], exact[0], torch.float32)
        yield f"fused_loss, order {order}, {name}, gradient", _error(found[1], exact[1], dtype)
    coefficients = (torch.stack([t, torch.ones_like(t)]), torch.stack([1 - t, -torch.ones_like(t)]))
    exact = rcgm_kernels.interpolate(
        x.double(), z.double(), *(part.double() for part in coefficients), backend="reference"
    )
    yield "interpolate", _error(rcgm_kernels.interpolate(x, z, *coefficients, backend=backend), exact, dtype)
    exact = rcgm_kernels.advance(x.double(), velocity.double(), t.double(), t.double() / 2, backend="reference")
    yield "advance", _error(rcgm_kernels.advance(x, velocity, t, t / 2, backend=backend), exact, dtype)
    average, copied = x.float(), torch.empty_like(x)
    expected = 0.9 * average.double() + 0.1 * z.double()
    rcgm_kernels.ema_update_([average], [z], 0.9, None if dtype == torch.float32 else [copied], backend=backend)
    yield "ema_update_", _error(average, expected, torch.float32)
    if dtype != torch.float32:
        yield "ema_update_, copy", _error(copied, expected, dtype)


def _loss(
    pred: Tensor, segments: list[Tensor], velocity: Tensor, times: Tensor, weight: Tensor, backend: str,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    pred = pred.clone().requires_grad_()
    value = rcgm_kernels.fused_loss(
        pred, segments, velocity, times, weight=weight, reduction="sum", backend=backend, **options
    )
    value.backward(torch.full_like(value, float(pred[0].numel())))  # to gradients of order 1, as loss scaling does
    return value.detach(), pred.grad


def _error(found: Tensor, exact: Tensor, dtype: torch.dtype) -> float:
    allowed = (torch.finfo(dtype).eps + ARITHMETIC) * exact.abs().max()
    return float((found.double() - exact).abs().max() / allowed)


if __name__ == "__main__":
    main()
