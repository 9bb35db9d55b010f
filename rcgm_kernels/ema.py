"""The exponential moving average of a whole model in one launch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from types import ModuleType

import torch
from torch import Tensor, nn

from rcgm_kernels import checks
from rcgm_kernels.backends import AUTOMATIC, ENVIRONMENT, choose
from rcgm_kernels.known import known_calls
from rcgm_kernels.layout import dense_order, is_same_memory, meetings, share_memory
from rcgm_kernels.library import define, is_plain

MASTER_DTYPES = (torch.float32, torch.float64)


@torch.no_grad()
def ema_update_(
    ema_params: Iterable[Tensor],
    params: Iterable[Tensor],
    decay: float,
    cast_to: Iterable[Tensor] | None = None,
    *,
    backend: str | None = None,
) -> None:
    """``ema <- decay * ema + (1 - decay) * param`` for every tensor of a model, in one multi-tensor launch.

    Args:
        ema_params: the averages, float32 (or float64) whatever the dtype of the model, updated in place; without gaps
            in memory, in any order of dimensions, such as channels last.
        params: the model's tensors, in the same order and of the same shapes; float64, float32, float16 or bfloat16.
            DTensors (sharded parameters) are updated shard by shard, locally. A parameter whose elements lie in
            another order than those of its average is copied first.
        decay: from 0 (copy) to 1 (leave as it is).
        cast_to: tensors of the same shapes, of any storage dtype, that receive the new averages in the same pass: the
            bfloat16 or float16 copy for the target forwards; without gaps in memory. None for no copy.
        backend: None chooses by device or by ``RCGM_BACKEND``.

    Averages and copies share no memory with one another or with a parameter; only an average or a copy may be its own
    parameter itself.

    Raises:
        TypeError, ValueError: before any work, for an argument that does not fit; the message names it.
    """
    averages, sources = _local("ema_params", ema_params), _local("params", params)
    copies = [] if cast_to is None else _local("cast_to", cast_to)
    _check_decay(decay)
    given = (averages, sources, None if cast_to is None else copies)
    known = None if torch.compiler.is_compiling() else _KNOWN.find(given, (backend,))
    if known is not None:
        return _update_(averages, sources, float(decay), copies, known)
    if cast_to is not None and len(copies) != len(averages):
        raise ValueError(f"cast_to must have as many tensors as ema_params, {len(averages)}, got {len(copies)}")
    _check(averages, sources, copies)
    call = _ema_update_
    if is_plain(*averages, *sources, *copies):
        if averages and len({average.device for average in averages}) == 1:
            _KNOWN.remember(given, (backend,), choose(backend, averages[0].device))
    else:
        _check_written(averages, copies)
        call = torch.ops.rcgm_kernels.ema_update_
        averages, sources, copies = ([tensor.detach() for tensor in each] for each in (averages, sources, copies))
    for device in dict.fromkeys(average.device for average in averages):
        here = [index for index, average in enumerate(averages) if average.device == device]
        call(
            [averages[index] for index in here],
            [sources[index] for index in here],
            float(decay),
            [copies[index] for index in here] if copies else [],
            backend or AUTOMATIC,
        )


def _local(name: str, tensors: Iterable[Tensor]) -> list[Tensor]:
    """The tensors themselves, or of DTensors the shard that lies here."""
    if isinstance(tensors, Tensor):
        raise TypeError(f"{name} must be a sequence of tensors, got one tensor: put it in a list")
    return [
        tensor if type(tensor) in (Tensor, nn.Parameter) or not hasattr(tensor, "to_local") else tensor.to_local()
        for tensor in tensors
    ]


# The backends of the calls that passed all checks but that of the decay, which may be another in every step.
_KNOWN = known_calls(ENVIRONMENT)


def _check_decay(decay: float) -> None:
    checks.number("decay", decay)
    if math.isnan(decay) or not 0 <= decay <= 1:
        raise ValueError(f"decay must be from 0 to 1, got {decay!r}")


def _check(ema_params: Sequence[Tensor], params: Sequence[Tensor], cast_to: Sequence[Tensor]) -> None:
    for index, average in enumerate(ema_params):
        checks.dense(f"ema_params[{index}]", average)
        if average.dtype not in MASTER_DTYPES:
            raise TypeError(
                f"ema_params[{index}] must be of dtype {checks.names(MASTER_DTYPES)}, "
                f"got {checks.names([average.dtype])}; "
                "a 16-bit average loses every step smaller than its rounding: use cast_to for a 16-bit copy"
            )
    for name, tensors in (("params", params), *((("cast_to", cast_to),) if cast_to else ())):
        if len(tensors) != len(ema_params):
            raise ValueError(f"{name} must have as many tensors as ema_params, {len(ema_params)}, got {len(tensors)}")
        for index, (tensor, average) in enumerate(zip(tensors, ema_params, strict=True)):
            checks.dense(f"{name}[{index}]", tensor)
            checks.fits(f"{name}[{index}]", tensor, average)
    for name, tensors in (("ema_params", ema_params), ("cast_to", cast_to)):
        for index, tensor in enumerate(tensors):
            if not tensor.is_contiguous() and dense_order(tensor) is None:
                raise ValueError(
                    f"{name}[{index}] must have no gaps in memory to be updated in place, got strides {tensor.stride()}"
                )


def _check_written(averages: Sequence[Tensor], copies: Sequence[Tensor]) -> None:
    for name, tensors in (("ema_params", averages), ("cast_to", copies)):
        for index, tensor in enumerate(tensors):
            checks.writable(f"{name}[{index}]", tensor)


def _check_call(
    ema_params: Sequence[Tensor], params: Sequence[Tensor], decay: float, cast_to: Sequence[Tensor], backend: str
) -> None:
    _check_decay(decay)
    _check(ema_params, params, cast_to)
    _check_written(ema_params, cast_to)
    for index, average in enumerate(ema_params):
        checks.same_device(f"ema_params[{index}]", average, ema_params[0])


def _check_apart(averages: Sequence[Tensor], params: Sequence[Tensor], copies: Sequence[Tensor]) -> None:
    """Check that nothing is written which another tensor is or reads, but for an average or copy of its own parameter.

    It is about addresses, which fake tensors do not have.
    """
    tensors = [*averages, *copies, *params]
    written = len(averages) + len(copies)
    for pair in meetings(tensors):
        position, other = sorted(pair)
        if position >= written or not share_memory(tensors[position], tensors[other]):
            continue
        names = [_name(index, averages, copies) for index in (position, other)]
        if other < written:
            raise ValueError(f"{names[1]} must share no memory with {names[0]}: both are written")
        own = other - written == position % len(averages)
        if not (own and is_same_memory(tensors[position], tensors[other])):
            raise ValueError(
                f"{names[0]} must share no memory with {names[1]}"
                + (" in part: they must be the same tensor, or apart" if own else ": it is written, the other is read")
            )


def _name(position: int, averages: Sequence[Tensor], copies: Sequence[Tensor]) -> str:
    """The name of the tensor at ``position`` of averages, copies and parameters."""
    kinds = ["ema_params", *(["cast_to"] if copies else []), "params"]
    kind, index = divmod(position, len(averages))
    return f"{kinds[kind]}[{index}]"


def _ema_update_(
    ema_params: Sequence[Tensor], params: Sequence[Tensor], decay: float, cast_to: Sequence[Tensor], backend: str
) -> None:
    if ema_params:
        _update_(ema_params, params, decay, cast_to, choose(backend, ema_params[0].device))


def _update_(
    ema_params: Sequence[Tensor],
    params: Sequence[Tensor],
    decay: float,
    cast_to: Sequence[Tensor],
    backend: ModuleType,
) -> None:
    """Update averages and copies on one device."""
    if ema_params[0].device.type != "meta":
        _check_apart(ema_params, params, cast_to)
    averages, sources, copies = list(ema_params), list(params), list(cast_to)
    rearranged = []
    for index, average in enumerate(averages):
        if average.is_contiguous() and (not copies or copies[index].is_contiguous()):
            continue
        order = dense_order(average)  # in it the average is contiguous
        averages[index], sources[index] = average.permute(order), sources[index].permute(order)
        if copies:
            copies[index] = target = copies[index].permute(order)
            if not target.is_contiguous():
                copies[index] = target.contiguous()
                rearranged.append((target, copies[index]))
    backend.ema_update_(averages, sources, decay, copies)
    for target, values in rearranged:
        target.copy_(values)
    torch.autograd.graph.increment_version([*ema_params, *cast_to])  # a graph that saved them must not be used


define(
    "ema_update_(Tensor(a!)[] ema_params, Tensor[] params, float decay, Tensor(b!)[] cast_to, str backend) -> ()",
    _ema_update_,
    check=_check_call,
    fake=lambda ema_params, params, decay, cast_to, backend: None,
)
