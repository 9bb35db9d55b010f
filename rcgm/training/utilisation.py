"""Model FLOPs utilisation (MFU)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rcgm.data import DataInfo
from rcgm.training.trial import on_meta, trial_forward

__all__ = ["PEAK_TFLOPS", "Utilisation", "forward_flops", "peak_flops"]

PEAK_TFLOPS: dict[str, float] = {
    "GB200": 2500.0,
    "B200": 2250.0,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.5,
    "H100": 989.4,
    "H800": 989.4,
    "H20": 148.0,
    "GH200": 989.4,
    "A100": 312.0,
    "A800": 312.0,
    "A40": 149.7,
    "A30": 165.0,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.05,
    "L40": 181.05,
    "L4": 121.0,
    "MI325X": 1307.4,
    "MI300X": 1307.4,
    "MI250X": 383.0,
    "RTX 6000 Ada": 364.2,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}
"""Published dense bfloat16 rates, in 1e12 operations per second, by a part of the device's name."""


def peak_flops(device: torch.device, override: float | None = None) -> float | None:
    """Peak rate of ``device`` in floating-point operations per second; None if it is not known.

    Args:
        device: whose name is looked up in :data:`PEAK_TFLOPS`, if it is a GPU.
        override: peak rate in 1e12 per second, used instead.
    """
    if override is not None:
        return override * 1e12
    return None if device.type != "cuda" else published_peak(torch.cuda.get_device_name(device))


def published_peak(name: str) -> float | None:
    """The rate of the device called ``name``: that of the longest entry that it has in it as words."""
    words = name.replace("-", " ").split()
    entries = [entry for entry in PEAK_TFLOPS if _has(words, entry.split())]
    return PEAK_TFLOPS[max(entries, key=len)] * 1e12 if entries else None


def _has(words: list[str], entry: list[str]) -> bool:
    # NVIDIA writes "H100 80GB HBM3" and "H100 PCIe" alike
    return all(word in words for word in entry)


def forward_flops(build: Callable[[], nn.Module], info: DataInfo) -> int:
    """Operations of one forward of the network that ``build`` makes, for one sample of data like ``info``: of its
    shape, and with a caption of full length.

    Counted by torch on the meta device, so that sharding and compilation do not matter. Matrix products, convolutions
    and attention count, a multiplication and an addition as two; norms and the like do not.
    """
    network = on_meta(build)
    with FlopCounterMode(display=False) as counter:
        trial_forward(network, info)
    return counter.get_total_flops()


class Utilisation:
    """Model FLOPs utilisation: operations of the forwards and backwards, relative to the peak of the device.

    A forward without gradient counts once, one with a tangent twice, that of the student with its backward three times.
    Recomputed activations do not count.

    Args:
        build: makes the network of the run.
        info: of the data.
        device: of this process.
        peak_tflops: rate of the device in 1e12 operations a second; that published for it where it is None.
    """

    def __init__(
        self, build: Callable[[], nn.Module], info: DataInfo, device: torch.device, peak_tflops: float | None = None
    ) -> None:
        self._peak = peak_flops(device, peak_tflops)
        self._per_row = 0 if self._peak is None else forward_flops(build, info)

    def share(self, rows: int, steps: int, seconds: float) -> dict[str, float]:
        """``mfu``, from 0 to 1, of ``steps`` that each put ``rows`` through a network; nothing without a peak."""
        if self._peak is None or rows == 0:
            return {}
        return {"mfu": self._per_row * rows * steps / (seconds * self._peak)}
