"""The operations in C++: OpenMP, vectorised, the instruction set chosen at run time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rcgm_kernels import checks
from rcgm_kernels.backends import reference
from rcgm_kernels.inputs import LossInputs
from rcgm_kernels.layout import dense_samples
from rcgm_kernels.plan import LossPlan, Results, new_results

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
    """The instruction sets that run here, best first; ``RCGM_CPU_ISA`` forces one (csrc/cpu/bindings.cpp)."""
    return _cpu.isa_names().split(",")


def residual_loss(inputs: LossInputs, plan: LossPlan) -> Results:
    """See :func:`rcgm_kernels.backends.reference.residual_loss`."""
    if not plan.batch * plan.size:
        return reference.residual_loss(inputs, plan)
    inputs = inputs if plan.dense else inputs.with_dense_samples()
    results = new_results(inputs.pred, plan.dtype, plan.options)
    unordered = _cpu.residual_loss(inputs, plan.numbers, results, torch.get_num_threads())
    if unordered >= 0:
        raise checks.unordered(inputs.scalars, unordered)
    return results


def scale_gradient_(gradient: Tensor, upstream: Tensor, scales: Tensor) -> None:
    """See :func:`rcgm_kernels.backends.reference.scale_gradient_`."""
    if upstream.dtype not in (torch.float32, torch.float64):
        upstream = upstream.float()
    _cpu.scale(gradient, upstream, scales if scales.numel() else None, torch.get_num_threads())


def interpolate(x: Tensor, z: Tensor, alpha: Tensor, gamma: Tensor, out_dtype: torch.dtype) -> Tensor:
    """See :func:`rcgm_kernels.backends.reference.interpolate`."""
    out = torch.empty((alpha.shape[0], *x.shape), dtype=out_dtype)
    _cpu.interpolate(dense_samples(x), dense_samples(z), alpha, gamma, out, torch.get_num_threads())
    return out


def advance_(out: Tensor, x: Tensor, velocity: Tensor, t: Tensor, r: Tensor) -> None:
    """See :func:`rcgm_kernels.backends.reference.advance_`."""
    target = dense_samples(out)  # a copy where the samples of `out` are not dense
    _cpu.advance(dense_samples(x), dense_samples(velocity), t, r, target, torch.get_num_threads())
    if target is not out:
        out.copy_(target)


def ema_update_(ema: Sequence[Tensor], params: Sequence[Tensor], decay: float, copies: Sequence[Tensor]) -> None:
    """See :func:`rcgm_kernels.backends.reference.ema_update_`."""
    params = [param.contiguous() for param in params]
    _cpu.ema(list(ema), params, list(copies), decay, torch.get_num_threads())
