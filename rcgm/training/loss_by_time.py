"""The mean loss by range of the time ``t``, gathered on the device and read with the reports."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from rcgm.distributed.shares import Processes

__all__ = ["LossByTime"]


class LossByTime:
    """Sums and counts of the losses of samples in equal ranges of [0, 1], since the last report.

    :meth:`add` does not wait for the device. Losses that are not finite are left out.

    Args:
        ranges: how many; 0 keeps nothing.
        device: of the losses.
        processes: whose samples are reported together.
    """

    def __init__(self, ranges: int, device: torch.device, processes: Processes) -> None:
        self._ranges = ranges
        self._processes = processes
        self._sums = torch.zeros(2, ranges, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, t: Tensor, losses: Tensor) -> None:
        """Note the losses ``[N]`` of samples at the times ``t [N]``."""
        if self._ranges == 0:
            return
        place = (t * self._ranges).long().clamp(0, self._ranges - 1)
        finite = losses.isfinite()
        values = torch.stack([torch.where(finite, losses, 0).double(), finite.double()])
        # by comparison rather than by index_add_, whose order of addition is not fixed on a GPU
        inside = place == torch.arange(self._ranges, device=place.device)[:, None]
        self._sums += torch.where(inside, values[:, None], 0).sum(dim=2)

    def report(self) -> dict[str, float]:
        """The means of ranges with samples, by ``loss_t/LOW-HIGH``; then start again. Waits for the device."""
        if self._ranges == 0:
            return {}
        sums = self._sums
        if self._processes.world_size > 1:
            dist.all_reduce(sums)
        totals, counts = sums.tolist()
        self._sums = torch.zeros_like(sums)
        edges = [f"{edge / self._ranges:.2g}" for edge in range(self._ranges + 1)]
        return {
            f"loss_t/{edges[i]}-{edges[i + 1]}": totals[i] / counts[i] for i in range(self._ranges) if counts[i] > 0
        }

    def state(self) -> list[list[list[float]]]:
        """Unreported sums, by process. Each process has to make the call. Waits for the device."""
        own = self._sums.cpu()
        everywhere = [torch.empty_like(own) for _ in range(self._processes.world_size)]
        if self._processes.world_size > 1:
            dist.all_gather(everywhere, own)
        else:
            everywhere = [own]
        return [sums.tolist() for sums in everywhere]

    def restore(self, state: Sequence[Sequence[Sequence[float]]]) -> None:
        """Continue from :meth:`state`; start again if the number of ranges differs."""
        sums = torch.tensor(state, dtype=torch.float64)
        if sums.ndim != 3 or sums.shape[1:] != self._sums.shape:
            return
        if len(sums) == self._processes.world_size:
            own = sums[self._processes.rank]
        else:
            own = sums.sum(dim=0) if self._processes.is_main else torch.zeros_like(sums[0])
        self._sums = own.to(self._sums.device)
