"""The operations in CUDA C++: one launch each, on torch's current stream, without host synchronisation."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from rcgm_kernels.backends import native, reference
from rcgm_kernels.inputs import LossInputs
from rcgm_kernels.layout import dense_samples, sample_size
from rcgm_kernels.plan import LossPlan, empty_results

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
    return device.type == "cuda" and _runs_on(torch.cuda.current_device() if device.index is None else device.index)


def residual_loss(inputs: LossInputs, plan: LossPlan) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`rcgm_kernels.backends.reference.residual_loss`.

    One launch, but for samples that do not fit on the chip with a metric, weight or normalisation that needs a sample's
    sums before its gradient: two.
    """
    if not plan.batch * plan.size:
        return reference.residual_loss(inputs, plan)
    inputs, device = inputs if plan.dense else inputs.with_dense_samples(), inputs.pred.device
    results = empty_results(inputs.pred, plan.dtype, plan.options)
    doubles = _cuda.loss_workspace(device.index or 0, plan.batch, plan.size, plan.positions)
    workspace, counter = torch.empty(doubles, dtype=torch.float64, device=device), _counter(device)
    arguments = native.loss_arguments(inputs, plan, results)
    _launch("residual_loss", device, (*arguments, workspace.data_ptr(), counter.data_ptr()))
    return results


def scale_gradient_(gradient: Tensor, upstream: Tensor, scales: Tensor) -> None:
    """See :func:`rcgm_kernels.backends.reference.scale_gradient_`. Where the factor is 1, nothing is touched."""
    if gradient.numel() == 0:
        return
    if upstream.dtype not in (torch.float32, torch.float64):
        upstream = upstream.float()
    factors = native.numbers(upstream), native.numbers(scales if scales.numel() else None)
    _launch("scale", gradient.device, (gradient.shape[0], sample_size(gradient), native.array(gradient), *factors))


def interpolate(x: Tensor, z: Tensor, alpha: Tensor, gamma: Tensor, out_dtype: torch.dtype) -> Tensor:
    """See :func:`rcgm_kernels.backends.reference.interpolate`."""
    x, z = dense_samples(x.detach()), dense_samples(z.detach())
    out = torch.empty((alpha.shape[0], *x.shape), dtype=out_dtype, device=x.device)
    if out.numel():
        size = sample_size(x)
        target = (out.data_ptr(), size, native.DTYPES[out_dtype])
        rows = native.numbers(alpha), native.numbers(gamma)
        arrays = (native.array(x), native.array(z), alpha.shape[0], *rows, target)
        _launch("interpolate", x.device, (x.shape[0], size, *arrays))
    return out


def advance_(out: Tensor, x: Tensor, velocity: Tensor, t: Tensor, r: Tensor) -> None:
    """See :func:`rcgm_kernels.backends.reference.advance_`."""
    if out.numel() == 0:
        return
    x, velocity = dense_samples(x), dense_samples(velocity)
    target = dense_samples(out)  # a copy where the samples of `out` are not dense
    arrays = (native.array(x), native.array(velocity), native.numbers(t), native.numbers(r), native.array(target))
    _launch("advance", x.device, (x.shape[0], sample_size(x), *arrays))
    if target is not out:
        out.copy_(target)


def ema_update_(ema: Sequence[Tensor], params: Sequence[Tensor], decay: float, copies: Sequence[Tensor]) -> None:
    """See :func:`rcgm_kernels.backends.reference.ema_update_`. One launch for every 800 tensors."""
    if not ema:
        return
    params = [param.contiguous() for param in params]
    entries = native.ema_entries(ema, params, copies)
    _launch("ema", ema[0].device, entries, decay)


def _launch(name: str, device: torch.device, *arguments: object) -> None:
    """Run a kernel on torch's current stream of ``device``."""
    with torch.cuda.device(device):
        getattr(_cuda, name)((device.index, torch.cuda.current_stream(device).cuda_stream), *arguments)


def _counter(device: torch.device) -> Tensor:
    """A counter that is 0, with which the blocks of a launch find out which of them is the last; that one clears it.

    Launches on one stream run one after the other and share a counter. A graph may be replayed on any stream, so what
    is captured gets one of its own.
    """
    with torch.cuda.device(device):
        if torch.cuda.is_current_stream_capturing():
            return _new_counter(device)
        return _counter_of_stream(device, torch.cuda.current_stream(device).cuda_stream)


@functools.cache
def _counter_of_stream(device: torch.device, stream: int) -> Tensor:
    return _new_counter(device)


def _new_counter(device: torch.device) -> Tensor:
    return torch.zeros(1, dtype=torch.int32, device=device)


@functools.cache
def _runs_on(index: int) -> bool:
    return _cuda.runs_on(index)
