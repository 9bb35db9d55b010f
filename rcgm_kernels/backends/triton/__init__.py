"""The operations in Triton: portable over GPUs, and in Triton's interpreter on the CPU (``TRITON_INTERPRET=1``)."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from rcgm_kernels.options import LossOptions

NAME = "triton"

# Kernels are imported by the call that needs them: triton is not there everywhere, and slow to import.


def unavailable() -> str | None:
    """Why this backend cannot run here; None where it can."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed: pip install triton"
    if not _interpreting() and not any(map(_has, ("cuda", "xpu"))):
        return "no GPU that torch can use; TRITON_INTERPRET=1 runs the kernels on the CPU, slowly, for tests"
    return None


def supports(device: torch.device) -> bool:
    return device.type in ("cuda", "xpu") or (device.type == "cpu" and _interpreting())


def residual_loss(
    pred: Tensor,
    terms: Sequence[Tensor],
    scalars: Tensor,
    pred_coeff: Tensor | None,
    scale: Tensor | None,
    weight: Tensor | None,
    options: LossOptions,
    storage_scale: float,
) -> tuple[Tensor, Tensor]:
    """See :func:`rcgm_kernels.backends.reference.residual_loss`."""
    from rcgm_kernels.backends.triton import loss

    return loss.residual_loss(pred, terms, scalars, pred_coeff, scale, weight, options, storage_scale)


def scale_gradient_(gradient: Tensor, upstream: Tensor, divisor: float) -> None:
    """See :func:`rcgm_kernels.backends.reference.scale_gradient_`."""
    from rcgm_kernels.backends.triton import scale

    scale.scale_gradient_(gradient, upstream, divisor)


def interpolate(x: Tensor, z: Tensor, alpha: Tensor, gamma: Tensor, out_dtype: torch.dtype) -> Tensor:
    """See :func:`rcgm_kernels.backends.reference.interpolate`."""
    from rcgm_kernels.backends.triton import path

    return path.interpolate(x, z, alpha, gamma, out_dtype)


def advance_(out: Tensor, x: Tensor, velocity: Tensor, t: Tensor, r: Tensor) -> None:
    """See :func:`rcgm_kernels.backends.reference.advance_`."""
    from rcgm_kernels.backends.triton import path

    path.advance_(out, x, velocity, t, r)


def ema_update_(ema: Sequence[Tensor], params: Sequence[Tensor], decay: float, copies: Sequence[Tensor]) -> None:
    """See :func:`rcgm_kernels.backends.reference.ema_update_`."""
    from rcgm_kernels.backends.triton import ema as kernels

    kernels.ema_update_(ema, params, decay, copies)


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _has(device: str) -> bool:
    return getattr(torch, device).is_available()
