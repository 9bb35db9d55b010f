"""Steps that are left out because their loss or gradient is not finite: decided and counted on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from rcgm.training.health import NonFiniteError

__all__ = ["Skips"]


class Skips:
    """Makes the steps of an optimizer, and leaves parameters and state as they are where a step is not finite.

    An optimizer that can be told so on the device (torch's fused AdamW) is; of another it is asked whether to step,
    which waits for the device where that is a GPU.

    Args:
        limit: so many left out in a row end the run.
        device: of the losses.
    """

    def __init__(self, limit: int, device: torch.device) -> None:
        self.limit = limit
        # left out in all, in a row now, in a row at most
        self._counts = torch.zeros(3, dtype=torch.int64, device=device)

    def step(self, optimizer: torch.optim.Optimizer, *numbers: Tensor) -> None:
        """Step ``optimizer`` if all ``numbers`` are finite: tensors of no dimension, alike in all processes."""
        left_out = ~torch.stack([number.isfinite() for number in numbers]).all()
        total, in_a_row, longest = self._counts.unbind()
        in_a_row = torch.where(left_out, in_a_row + 1, 0)
        self._counts = torch.stack([total + left_out, in_a_row, torch.maximum(longest, in_a_row)])
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.grad_scale, optimizer.found_inf = None, left_out.float()
            try:
                optimizer.step()
            finally:
                del optimizer.grad_scale, optimizer.found_inf
        elif not bool(left_out):
            optimizer.step()

    def restore(self, total: int) -> None:
        """Go on counting from ``total``."""
        self._counts[0] = total

    def read(self) -> int:
        """How many have been left out. Waits for the device.

        Raises:
            NonFiniteError: ``limit`` have been, in a row.
        """
        total, _, longest = self._counts.tolist()
        if longest >= self.limit:
            raise NonFiniteError(f"{longest} steps in a row were not finite, and skip_limit is {self.limit}")
        return total
