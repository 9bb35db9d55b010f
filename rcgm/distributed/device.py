"""The device that a process computes on."""

from __future__ import annotations

import torch

__all__ = ["choose_device"]


def choose_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` is a CUDA device if there is one, and else the CPU.

    Raises:
        ValueError: ``cuda``, and there is no CUDA device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device must be auto or cpu, got cuda: torch finds no CUDA device here")
    use_cuda = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    # The index is written out, as a tensor's device has one and devices are compared.
    return torch.device("cuda", torch.cuda.current_device()) if use_cuda else torch.device("cpu")
