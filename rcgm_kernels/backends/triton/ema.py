"""ema_update_ in Triton: one launch for all tensors of the same dtypes, a whole model as a rule.

The kernel finds its tensor in a table of addresses on the device. Tables are cached by their content, the addresses and
sizes, so that a training loop uploads one once; a table whose tensors are gone is never asked for again, or else
describes the tensors that now lie at the same addresses with the same sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from rcgm_kernels.backends.triton.common import COMPUTE, narrowed, warps, widened

CHUNK = 2048
TYPES = {torch.float64: tl.float64, torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def ema_update_(ema: Sequence[Tensor], params: Sequence[Tensor], decay: float, copies: Sequence[Tensor]) -> None:
    """See :func:`rcgm_kernels.backends.reference.ema_update_`."""
    params = [param.contiguous() for param in params]
    groups: dict[tuple, list[tuple[int, int, int, int]]] = {}
    for index, (average, param) in enumerate(zip(ema, params, strict=True)):
        if average.numel() == 0:
            continue
        copy = copies[index] if copies else None
        dtypes = (average.dtype, param.dtype, average.dtype if copy is None else copy.dtype, copy is not None)
        row = (average.data_ptr(), param.data_ptr(), 0 if copy is None else copy.data_ptr(), average.numel())
        groups.setdefault(dtypes, []).append(row)
    for (average_type, param_type, copy_type, has_copy), rows in groups.items():
        table, owners, chunks = _table(tuple(rows), ema[0].device)
        _ema[(chunks,)](
            table, owners, decay, COMPUTE[average_type], TYPES[param_type], TYPES[copy_type], has_copy, CHUNK,
            num_warps=warps(CHUNK),
        )  # fmt: skip


@lru_cache(maxsize=64)
def _table(rows: tuple[tuple[int, int, int, int], ...], device: torch.device) -> tuple[Tensor, Tensor, int]:
    """Addresses and sizes ``[tensors, 4]``, and for each chunk its tensor and its number in it ``[chunks, 2]``."""
    counts = torch.tensor([triton.cdiv(size, CHUNK) for *_, size in rows])
    owner = torch.repeat_interleave(torch.arange(len(rows)), counts)
    number = torch.arange(len(owner)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    table, owners = torch.tensor(rows, dtype=torch.int64), torch.stack([owner, number], 1).contiguous()
    if device.type != "cpu":
        table, owners = (host.pin_memory().to(device, non_blocking=True) for host in (table, owners))
    return table, owners, len(owner)


@triton.jit
def _ema(
    TABLE, OWNERS, DECAY: tl.constexpr,
    COMPUTE: tl.constexpr, PARAM: tl.constexpr, COPY: tl.constexpr, HAS_COPY: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    owner = tl.load(OWNERS + 2 * program)
    offsets = tl.load(OWNERS + 2 * program + 1) * COLUMNS + tl.arange(0, COLUMNS)
    entry = TABLE + 4 * owner
    mask = offsets < tl.load(entry + 3)
    at = tl.load(entry).to(tl.pointer_type(COMPUTE)) + offsets
    average = tl.load(at, mask=mask, other=0.0)
    param = widened(tl.load(tl.load(entry + 1).to(tl.pointer_type(PARAM)) + offsets, mask=mask, other=0.0), COMPUTE)
    if 1 - DECAY < 0.5:  # each form is exact at its own end: decay 1 keeps, decay 0 copies
        average += (1 - DECAY) * (param - average)
    else:
        average = param - DECAY * (param - average)
    tl.store(at, average, mask=mask)
    if HAS_COPY:
        copy = tl.load(entry + 2).to(tl.pointer_type(COPY)) + offsets
        tl.store(copy, narrowed(average, copy), mask=mask)
