"""Number formats: autocast is for networks; formulas and the joining of batches run without it.

Under autocast some operations of torch convert their arguments to one format, and fail where the arguments have both
half-precision formats: ``torch.cat`` and ``torch.stack`` of float16 under autocast to bfloat16 (*Unexpected floating
ScalarType in at::autocast::prioritize*).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["autocast_to", "joined", "without_autocast"]

DEVICES = ("cpu", "cuda", "xpu", "mps")


def autocast_to(dtype: torch.dtype, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Autocast to ``dtype``; for float32 a context that does nothing."""
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


def without_autocast() -> contextlib.ExitStack:
    """A context without autocast, on every device."""
    stack = contextlib.ExitStack()
    for device in DEVICES:
        if torch.is_autocast_enabled(device):
            stack.enter_context(torch.autocast(device, enabled=False))
    return stack


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """``tensors`` one after the other along the batch, without autocast; a single one is returned itself."""
    if len(tensors) == 1:
        return tensors[0]
    with without_autocast():
        return torch.cat(list(tensors))
