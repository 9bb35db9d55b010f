"""The operations in Triton: portable over GPUs, and in Triton's interpreter on the CPU (``TRITON_INTERPRET=1``)."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from rcgm_kernels import checks
from rcgm_kernels.backends import reference
from rcgm_kernels.inputs import LossInputs
from rcgm_kernels.plan import LossPlan, Results

NAME = "triton"
DEVICES = ("cuda", "xpu")  # torch calls an AMD GPU "cuda", too

# Kernels are imported by the call that needs them: triton is not there everywhere, and slow to import.


def unavailable() -> str | None:
    """Why this backend cannot run here; None where it can."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed: pip install triton"
    if not _interpreting() and not any(getattr(torch, device).is_available() for device in DEVICES):
        return "no GPU that torch can use; TRITON_INTERPRET=1 runs the kernels on the CPU, slowly, for tests"
    return None


def supports(device: torch.device) -> bool:
    return device.type in DEVICES or (device.type == "cpu" and _interpreting())


def residual_loss(inputs: LossInputs, plan: LossPlan) -> Results:
    """See :func:`rcgm_kernels.backends.reference.residual_loss`."""
    from rcgm_kernels.backends.triton import loss

    if not plan.batch * plan.size:
        return reference.residual_loss(inputs, plan)
    if plan.options.times and inputs.scalars.device.type == "cpu":
        checks.ordered_times(inputs.scalars, inputs.weight)
    with _on(inputs.pred):
        return loss.residual_loss(inputs, plan)


def scale_gradient_(gradient: Tensor, upstream: Tensor, scales: Tensor) -> None:
    """See :func:`rcgm_kernels.backends.reference.scale_gradient_`."""
    from rcgm_kernels.backends.triton import scale

    with _on(gradient):
        scale.scale_gradient_(gradient, upstream, scales)


def interpolate(x: Tensor, z: Tensor, alpha: Tensor, gamma: Tensor, out_dtype: torch.dtype) -> Tensor:
    """See :func:`rcgm_kernels.backends.reference.interpolate`."""
    from rcgm_kernels.backends.triton import path

    with _on(x):
        return path.interpolate(x, z, alpha, gamma, out_dtype)


def advance_(out: Tensor, x: Tensor, velocity: Tensor, t: Tensor, r: Tensor) -> None:
    """See :func:`rcgm_kernels.backends.reference.advance_`."""
    from rcgm_kernels.backends.triton import path

    with _on(x):
        path.advance_(out, x, velocity, t, r)


def ema_update_(ema: Sequence[Tensor], params: Sequence[Tensor], decay: float, copies: Sequence[Tensor]) -> None:
    """See :func:`rcgm_kernels.backends.reference.ema_update_`."""
    if not ema:
        return
    from rcgm_kernels.backends.triton import ema as kernels

    with _on(ema[0]):
        kernels.ema_update_(ema, params, decay, copies)


def _interpreting() -> bool:
    """True if kernels run in the interpreter. TRITON_INTERPRET decides, once: when they are defined."""
    common = sys.modules.get(f"{__name__}.common")
    if common is not None:
        return common.INTERPRETED
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


def _on(tensor: Tensor) -> AbstractContextManager:
    """Makes the tensor's device the current one: Triton launches there, wherever the tensors are."""
    if tensor.device.type == "cpu":
        return nullcontext()
    return torch.get_device_module(tensor.device).device(tensor.device)
