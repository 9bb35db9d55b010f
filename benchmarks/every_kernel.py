"""One call of every kernel in every mode, small, for the memory and race checkers."""

from __future__ import annotations

import torch

import rcgm_kernels
from rcgm_kernels import Metric

SIZES = ((64, 2), (32, 300), (4, 4096), (2, 40_000), (1, 200_001), (1, 1_000_003), (8, 4, 32, 32), (2, 16, 5001),
         (1, 16, 300, 300))  # fmt: skip
METRICS = (Metric(), Metric("pseudo_huber", cosine=0.5), Metric("barron"))


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for shape in SIZES:
        for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
            loss_and_path(shape, dtype, device)
    ema(device)
    if device.type == "cuda":
        torch.cuda.synchronize()
    print("every kernel ran")


def loss_and_path(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    x, z = (torch.randn(shape, device=device, dtype=dtype) for _ in range(2))
    t = torch.rand(shape[0], device=device) * 0.8 + 0.1
    times = torch.stack([t, t - 0.01, t / 2, torch.zeros_like(t)])
    point, velocity = rcgm_kernels.interpolate(
        x, z, torch.stack([t, torch.ones_like(t)]), torch.stack([1 - t, -torch.ones_like(t)])
    ).unbind(0)
    rcgm_kernels.advance(point, velocity, times[0], times[1], out=torch.empty_like(x))
    for metric in METRICS:
        pred = x.clone().requires_grad_()
        loss = rcgm_kernels.fused_loss(pred, [x, z], velocity, times, metric=metric)
        (2 * loss).backward()


def ema(device: torch.device) -> None:
    shapes = [(7,), (1000, 33), (5, 5, 5), (1,)] * 40
    averages, params = ([torch.randn(shape, device=device) for shape in shapes] for _ in range(2))
    rcgm_kernels.ema_update_(averages, params, 0.9, [average.bfloat16() for average in averages])


if __name__ == "__main__":
    main()
