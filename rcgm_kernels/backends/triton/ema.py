"""ema_update_ in Triton: one launch for all tensors of the same dtypes, a whole model as a rule.

A program finds its tensor in a table on the device that holds an address and a size for each tensor. Uploading a table
costs more than the update of a small model, so tables are kept, by their content.

A kept table holds addresses, not tensors, and is never read after they have gone stale: it is found again only by a
call whose tensors, alive during that call, have these very addresses and sizes. The tables that a captured CUDA graph
reads are kept as long as the process, since the graph may be replayed that long; keeping the tensors themselves is for
the owner of the graph, as always.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rcgm_kernels.backends.triton.common import COMPUTE, narrowed, warps, widened

CHUNK = 4096
TYPES = {torch.float64: tl.float64, torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def ema_update_(ema: Sequence[Tensor], params: Sequence[Tensor], decay: float, copies: Sequence[Tensor]) -> None:
    """See :func:`rcgm_kernels.backends.reference.ema_update_`.

    Raises:
        RuntimeError: if a CUDA graph is being captured and no call before it had these tensors.
    """
    params = [param.contiguous() for param in params]
    groups: dict[tuple, list[tuple[int, int, int, int]]] = {}
    for index, (average, param) in enumerate(zip(ema, params, strict=True)):
        if average.numel() == 0:
            continue
        copy = copies[index] if copies else average
        row = (average.data_ptr(), param.data_ptr(), copy.data_ptr(), average.numel())
        aligned = all(address % 16 == 0 for address in row[:3])
        groups.setdefault((average.dtype, param.dtype, copy.dtype, aligned), []).append(row)
    for (average_type, param_type, copy_type, aligned), rows in groups.items():
        table = _table(tuple(rows), ema[0].device)
        table.prepare()
        _ema[(len(table.owners),)](
            table.entries, table.owners, DECAY=decay, WEIGHT=1 - decay, SMALL_STEP=1 - decay < 0.5,
            COMPUTE=COMPUTE[average_type], PARAM=TYPES[param_type], COPY=TYPES[copy_type], HAS_COPY=bool(copies),
            ALIGNMENT=16 if aligned else 1, COLUMNS=CHUNK, num_warps=warps(CHUNK),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Table:
    """Where the tensors are.

    Args:
        entries: of each tensor its addresses (average, parameter, copy), its size and its first chunk: int64 [N, 5].
        owners: of each chunk its tensor: int32.
        uploaded: the event after the upload; None on the CPU.
    """

    entries: Tensor
    owners: Tensor
    uploaded: Any

    def prepare(self) -> None:
        """Order the launch that follows after the upload, and the release of the memory after that launch."""
        if self.uploaded is None:
            return
        if _capturing(self.entries.device):
            if self not in _CAPTURED:
                _CAPTURED.append(self)
            return
        module = torch.get_device_module(self.entries.device)
        self.uploaded.wait()
        for tensor in (self.entries, self.owners):
            tensor.record_stream(module.current_stream())


_CAPTURED: list[_Table] = []


@lru_cache(maxsize=32)
def _table(rows: tuple[tuple[int, int, int, int], ...], device: torch.device) -> _Table:
    addresses_and_sizes = torch.tensor(rows, dtype=torch.int64)
    chunks = (addresses_and_sizes[:, 3] + CHUNK - 1) // CHUNK
    entries = torch.cat([addresses_and_sizes, (chunks.cumsum(0) - chunks)[:, None]], dim=1)
    owners = torch.repeat_interleave(torch.arange(len(rows), dtype=torch.int32), chunks)
    if device.type == "cpu":
        return _Table(entries, owners, None)
    if _capturing(device):
        raise RuntimeError(
            "ema_update_ must have been called once with the same tensors before a CUDA graph is captured: "
            "the addresses of the tensors cannot be uploaded during the capture. Run one step before it"
        )
    entries, owners = (host.pin_memory().to(device, non_blocking=True) for host in (entries, owners))
    uploaded = torch.get_device_module(device).Event()
    uploaded.record()
    return _Table(entries, owners, uploaded)


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


@triton.jit
def _ema(
    ENTRIES, OWNERS, DECAY: tl.float64, WEIGHT: tl.float64, SMALL_STEP: tl.constexpr,
    COMPUTE: tl.constexpr, PARAM: tl.constexpr, COPY: tl.constexpr, HAS_COPY: tl.constexpr,
    ALIGNMENT: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0).to(tl.int64)
    entry = ENTRIES + 5 * tl.load(OWNERS + chunk).to(tl.int64)
    first = (chunk - tl.load(entry + 4)) * COLUMNS
    left = tl.load(entry + 3) - first
    average = tl.multiple_of(tl.load(entry).to(tl.pointer_type(COMPUTE)), ALIGNMENT) + first
    param = tl.multiple_of(tl.load(entry + 1).to(tl.pointer_type(PARAM)), ALIGNMENT) + first
    copy = tl.multiple_of(tl.load(entry + 2).to(tl.pointer_type(COPY)), ALIGNMENT) + first
    columns = tl.arange(0, COLUMNS)
    if left >= COLUMNS:  # without a mask, whose end could be anywhere, loads are 16 bytes wide
        _update(average + columns, param + columns, copy + columns, None, DECAY, WEIGHT, SMALL_STEP, COMPUTE, HAS_COPY)
    else:
        inside = columns < left
        _update(
            average + columns, param + columns, copy + columns, inside, DECAY, WEIGHT, SMALL_STEP, COMPUTE, HAS_COPY
        )


@triton.jit
def _update(
    AVERAGE, PARAM, COPY, mask, DECAY, WEIGHT, SMALL_STEP: tl.constexpr, COMPUTE: tl.constexpr, HAS_COPY: tl.constexpr
):
    average = tl.load(AVERAGE, mask=mask)
    param = widened(tl.load(PARAM, mask=mask), COMPUTE)
    if SMALL_STEP:  # torch.lerp's two forms, each exact at its own end: decay 1 keeps, decay 0 copies
        average += tl.full((1,), WEIGHT, COMPUTE) * (param - average)
    else:
        average = param - tl.full((1,), DECAY, COMPUTE) * (param - average)
    tl.store(AVERAGE, average, mask=mask)
    if HAS_COPY:
        tl.store(COPY, narrowed(average, COPY), mask=mask)
