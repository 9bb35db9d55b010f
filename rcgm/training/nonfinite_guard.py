"""Steps whose loss or gradient is not finite are skipped: decided and counted on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rcgm.training.health import NonFiniteError

__all__ = ["NonFiniteGuard"]


class NonFiniteGuard:
    """Makes the steps of optimizers, and skips those that are not finite: parameters and state stay as they are.

    torch's fused AdamW takes the decision from the device. Other optimizers are called or not called, which waits for
    the device where that is a GPU.

    Args:
        limit: abort after this many consecutive skipped steps.
        device: of the losses.
    """

    def __init__(self, limit: int, device: torch.device) -> None:
        self.limit = limit
        # skipped in total, consecutively now, consecutively at most
        self._counts = torch.zeros(3, dtype=torch.int64, device=device)

    def step(self, optimizers: Sequence[torch.optim.Optimizer], *numbers: Tensor) -> None:
        """Step all ``optimizers`` if all ``numbers`` are finite: tensors of no dimension, the same in all processes."""
        skipped = ~torch.stack([number.isfinite() for number in numbers]).all()
        total, consecutive, longest = self._counts.unbind()
        consecutive = torch.where(skipped, consecutive + 1, 0)
        self._counts = torch.stack([total + skipped, consecutive, torch.maximum(longest, consecutive)])
        for optimizer in optimizers:
            if getattr(optimizer, "_step_supports_amp_scaling", False):
                optimizer.grad_scale, optimizer.found_inf = None, skipped.float()
                try:
                    optimizer.step()
                finally:
                    del optimizer.grad_scale, optimizer.found_inf
            elif not bool(skipped):
                optimizer.step()

    def restore(self, total: int) -> None:
        """Go on counting from ``total``."""
        self._counts[0] = total

    def read(self) -> int:
        """The number of skipped steps. Waits for the device.

        Raises:
            NonFiniteError: ``limit`` consecutive steps have been skipped.
        """
        total, _, longest = self._counts.tolist()
        if longest >= self.limit:
            raise NonFiniteError(f"{longest} steps in a row were not finite, and skip_limit is {self.limit}")
        return total
