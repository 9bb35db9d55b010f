"""The operations in C++: OpenMP, vectorised, the instruction set chosen at run time."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from rcgm_kernels import checks
from rcgm_kernels.backends import native, reference
from rcgm_kernels.inputs import LossInputs
from rcgm_kernels.layout import compute_dtype, dense_samples, sample_size
from rcgm_kernels.options import LossOptions

try:
    from rcgm_kernels import _cpu
except ImportError as error:
    _cpu, _IMPORT_ERROR = None, error

NAME = "cpu"
ISA_ENVIRONMENT = "RCGM_CPU_ISA"


def unavailable() -> str | None:
    """Why this backend cannot run here; None where it can."""
    if _cpu is None:
        return f"rcgm_kernels._cpu could not be loaded ({_IMPORT_ERROR}): reinstall with `pip install .`"
    return None


def supports(device: torch.device) -> bool:
    return device.type == "cpu"


def instruction_sets() -> list[str]:
    """The instruction sets that run here, best first; ``RCGM_CPU_ISA`` forces one."""
    return _cpu.isa_names().split(",")


def residual_loss(inputs: LossInputs, options: LossOptions) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`rcgm_kernels.backends.reference.residual_loss`."""
    if not inputs.pred.numel():
        return reference.residual_loss(inputs, options)
    pred, terms, *numbers = inputs
    pred = dense_samples(pred.detach())
    terms = [dense_samples(term) for term in terms]
    batch = pred.shape[0]
    dtype = compute_dtype(pred, *terms)
    loss = torch.empty(batch if options.reduction == "none" else (), dtype=dtype)
    gradient = torch.empty(pred.shape if options.with_gradient else 0, dtype=pred.dtype)
    scales = torch.empty(batch if options.gradient_is_scaled(pred.dtype) else 0, dtype=torch.float32)
    numbers = [None if values is None else values.contiguous() for values in numbers]
    unordered = _cpu.residual_loss(
        _isa(),
        batch,
        sample_size(pred),
        native.array(pred),
        [native.array(term) for term in terms],
        dtype == torch.float64,
        inputs.scalars.shape[0],
        *((0, False) if values is None else (values.data_ptr(), values.dtype == torch.float64) for values in numbers),
        native.loss_options(options, pred),
        loss.data_ptr(),
        native.array(gradient) if options.with_gradient else native.NO_ARRAY,
        scales.data_ptr() if scales.numel() else 0,
        torch.get_num_threads(),
    )
    if unordered >= 0:
        raise checks.unordered(inputs.scalars, unordered)
    return loss, gradient, scales


def scale_gradient_(gradient: Tensor, upstream: Tensor, scales: Tensor) -> None:
    """See :func:`rcgm_kernels.backends.reference.scale_gradient_`."""
    upstream = _doubles(upstream)
    _cpu.scale(
        _isa(),
        gradient.shape[0],
        sample_size(gradient),
        native.array(gradient),
        upstream.data_ptr(),
        upstream.ndim == 1,
        scales.data_ptr() if scales.numel() else 0,
        torch.get_num_threads(),
    )


def interpolate(x: Tensor, z: Tensor, alpha: Tensor, gamma: Tensor, out_dtype: torch.dtype) -> Tensor:
    """See :func:`rcgm_kernels.backends.reference.interpolate`."""
    x, z = dense_samples(x.detach()), dense_samples(z.detach())
    alpha, gamma = _doubles(alpha), _doubles(gamma)
    out = torch.empty((alpha.shape[0], *x.shape), dtype=out_dtype)
    _cpu.interpolate(
        _isa(),
        x.shape[0],
        sample_size(x),
        native.array(x),
        native.array(z),
        alpha.shape[0],
        compute_dtype(x, z) == torch.float64,
        alpha.data_ptr(),
        gamma.data_ptr(),
        out.data_ptr(),
        native.DTYPES[out_dtype],
        torch.get_num_threads(),
    )
    return out


def advance_(out: Tensor, x: Tensor, velocity: Tensor, t: Tensor, r: Tensor) -> None:
    """See :func:`rcgm_kernels.backends.reference.advance_`."""
    x, velocity = dense_samples(x), dense_samples(velocity)
    t, r = _doubles(t), _doubles(r)
    target = dense_samples(out)  # a copy where the samples of `out` are not dense
    _cpu.advance(
        _isa(),
        x.shape[0],
        sample_size(x),
        native.array(x),
        native.array(velocity),
        compute_dtype(x, velocity) == torch.float64,
        t.data_ptr(),
        r.data_ptr(),
        native.array(target),
        torch.get_num_threads(),
    )
    if target is not out:
        out.copy_(target)


def ema_update_(ema: Sequence[Tensor], params: Sequence[Tensor], decay: float, copies: Sequence[Tensor]) -> None:
    """See :func:`rcgm_kernels.backends.reference.ema_update_`."""
    params = [param.contiguous() for param in params]
    entries = native.ema_entries(ema, params, copies)
    _cpu.ema(_isa(), entries, decay, torch.get_num_threads())


def _isa() -> str:
    return os.environ.get(ISA_ENVIRONMENT, "")


def _doubles(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.detach().to(torch.float64).contiguous()
