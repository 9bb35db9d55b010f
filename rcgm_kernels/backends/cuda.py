"""The operations in CUDA C++: one launch each, on torch's current stream, without host synchronisation."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from rcgm_kernels.backends import reference
from rcgm_kernels.inputs import LossInputs
from rcgm_kernels.layout import dense_samples
from rcgm_kernels.plan import LossPlan, Results, new_results

try:
    import rcgm_kernels._cuda as _cuda
except ImportError as error:
    _cuda, _IMPORT_ERROR = None, error

NAME = "cuda"


@functools.cache
def unavailable() -> str | None:
    """Why this backend cannot run here; None where it can."""
    if _cuda is None:
        return (
            f"rcgm_kernels._cuda could not be loaded ({_IMPORT_ERROR}): it is built where nvcc is found; install a "
            "CUDA toolkit and reinstall with `RCGM_CUDA=1 pip install .`"
        )
    if torch.version.cuda is None or not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no CUDA device, and CUDA says: {_cuda.problem() or 'there is one'}"
    return _cuda.problem() or None


def supports(device: torch.device) -> bool:
    if device.type != "cuda" or unavailable() is not None:
        return False
    return _runs_on(torch.cuda.current_device() if device.index is None else device.index)


def residual_loss(inputs: LossInputs, plan: LossPlan) -> Results:
    """See :func:`rcgm_kernels.backends.reference.residual_loss`.

    One launch, but for samples that do not fit on the chip with a metric, weight or normalisation that needs a sample's
    sums before its gradient: two.
    """
    if not plan.batch * plan.size:
        return reference.residual_loss(inputs, plan)
    inputs, device = inputs if plan.dense else inputs.with_dense_samples(), inputs.pred.device
    results = new_results(inputs.pred, plan.dtype, plan.options)
    doubles = _cuda.loss_workspace(device.index or 0, plan.batch, plan.size, plan.positions)
    workspace = torch.empty(doubles, dtype=torch.float64, device=device)
    _launch("residual_loss", device, inputs, plan.numbers, results, workspace)
    return results


def scale_gradient_(gradient: Tensor, upstream: Tensor, scales: Tensor) -> None:
    """See :func:`rcgm_kernels.backends.reference.scale_gradient_`. Where the factor is 1, nothing is touched."""
    if gradient.numel() == 0:
        return
    if upstream.dtype not in (torch.float32, torch.float64):
        upstream = upstream.float()
    _launch("scale", gradient.device, gradient, upstream, scales if scales.numel() else None)


def interpolate(x: Tensor, z: Tensor, alpha: Tensor, gamma: Tensor, out_dtype: torch.dtype) -> Tensor:
    """See :func:`rcgm_kernels.backends.reference.interpolate`."""
    out = torch.empty((alpha.shape[0], *x.shape), dtype=out_dtype, device=x.device)
    if out.numel():
        _launch("interpolate", x.device, dense_samples(x), dense_samples(z), alpha, gamma, out)
    return out


def advance_(out: Tensor, x: Tensor, velocity: Tensor, t: Tensor, r: Tensor) -> None:
    """See :func:`rcgm_kernels.backends.reference.advance_`."""
    if out.numel() == 0:
        return
    target = dense_samples(out)  # a copy where the samples of `out` are not dense
    _launch("advance", x.device, dense_samples(x), dense_samples(velocity), t, r, target)
    if target is not out:
        out.copy_(target)


def ema_update_(ema: Sequence[Tensor], params: Sequence[Tensor], decay: float, copies: Sequence[Tensor]) -> None:
    """See :func:`rcgm_kernels.backends.reference.ema_update_`. One launch for every 800 tensors."""
    if not ema:
        return
    params = [param.contiguous() for param in params]
    _launch("ema", ema[0].device, list(ema), params, list(copies), decay)


def _launch(name: str, device: torch.device, *arguments: object) -> None:
    """Run a kernel on torch's current stream of ``device``."""
    with torch.cuda.device(device):
        getattr(_cuda, name)((device.index, torch.cuda.current_stream(device).cuda_stream), *arguments)


@functools.cache
def _runs_on(index: int) -> bool:
    with torch.cuda.device(index):  # which selects the device that was current again
        return _cuda.runs_on(index)
