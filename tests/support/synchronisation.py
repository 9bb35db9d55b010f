"""Finds on the CPU what would have the host wait for a GPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ATEN = torch.ops.aten
# Reads of a value, and shapes that depend on values.
WAITING = {
    ATEN._local_scalar_dense, ATEN.nonzero, ATEN.masked_select, ATEN.is_nonzero, ATEN.equal, ATEN._unique2,
    ATEN.unique_dim, ATEN.unique_consecutive, ATEN.repeat_interleave, ATEN.bincount, ATEN.histc,
}  # fmt: skip
INDEXED = {ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._index_put_impl_}


class WouldWaitError(AssertionError):
    """An operation that reads values of the device, or copies to it from the host's memory."""


class NothingWaits(TorchDispatchMode):
    """Raises at values that are read, at shapes made from values, and at lists and numbers made into tensors.

    Copies between devices, ``tolist`` and ``numpy`` cannot be seen here; a test on a GPU sees them.
    """

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        packet = operation.overloadpacket
        masked = packet in INDEXED and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in arguments[1]
        )
        if packet in WAITING or masked:
            raise WouldWaitError(f"{operation} reads values of the device")
        if packet is ATEN.lift_fresh:
            raise WouldWaitError("numbers of the host are made into a tensor: fill it on the device instead")
        return operation(*arguments, **(keywords or {}))
