"""The backends, and which of them runs an operation.

A backend is a module with ``NAME``, ``unavailable() -> str | None`` (why it cannot run here), ``supports(device)`` and
the functions that ``reference.py`` defines: ``residual_loss``, ``scale_gradient_``, ``interpolate``, ``advance_`` and
``ema_update_``. They take the same arguments and give the same numbers, up to rounding. To add a backend, write such a
module and add it to ``BACKENDS``. The order there is the order of preference.
"""

from __future__ import annotations

import os
from types import ModuleType

import torch

from rcgm_kernels.backends import cpu, cuda, reference, triton

# The first that is available and supports the device is chosen.
BACKENDS: dict[str, ModuleType] = {module.NAME: module for module in (cuda, cpu, triton, reference)}
ENVIRONMENT = "RCGM_BACKEND"
AUTOMATIC = ""  # what an operation is given for a backend that is to be chosen when it runs, not when it is compiled


def requested(name: str | None) -> str:
    """The backend that a call or else the environment names; empty where none does."""
    return name or os.environ.get(ENVIRONMENT) or AUTOMATIC


def choose(name: str | None, device: torch.device) -> ModuleType:
    """The backend called ``name``, or else by the environment, or else the fastest for ``device``.

    Raises:
        ValueError: for an unknown name, or a backend that cannot run here or not on that device.
    """
    forced = requested(name)
    if not forced:
        # In this order CUDA is not started for tensors that are elsewhere.
        return next(
            backend for backend in BACKENDS.values() if backend.supports(device) and backend.unavailable() is None
        )
    return _named(forced, "backend" if name else ENVIRONMENT, device)


def _named(forced: str, source: str, device: torch.device) -> ModuleType:
    """The backend called ``forced``; ``source`` is who asks for it."""
    backend = BACKENDS.get(forced)
    if backend is None:
        raise ValueError(f"{source} must be one of {', '.join(BACKENDS)}, got {forced!r}")
    reason = backend.unavailable()
    if reason is not None:
        raise ValueError(f"{source} {forced!r} is not available here: {reason}")
    if not backend.supports(device):
        raise ValueError(f"{source} {forced!r} does not run on {device.type} tensors; leave it out to choose by device")
    return backend
