"""Which rows of a batch this process holds, where several processes train together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Processes", "Share"]


@dataclass(frozen=True)
class Share:
    """Rows ``rank``, ``rank + count``, ... of a batch of ``total`` rows.

    What is random is drawn for the whole batch, alike in every process, and each keeps its rows: so the numbers of a
    step do not depend on how many processes there are. Rows are dealt out in turn because those with ``r = t``, which
    need no target forward, are the first of a batch: every process then has as many of them, to one.

    Raises:
        ValueError: the batch has fewer rows than there are processes, or there is no such rank.
    """

    total: int
    rank: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count:
            raise ValueError(f"rank must be from 0 to {self.count - 1}, got {self.rank}")
        if self.total < self.count:
            raise ValueError(
                f"a micro-batch must have at least one row for each of the {self.count} processes, got {self.total}: "
                "make batch_size larger or accumulate smaller"
            )

    @property
    def rows(self) -> int:
        """How many rows are here."""
        return self.before(self.total)

    def of(self, whole: Tensor) -> Tensor:
        """The rows of ``whole`` ``[total, ...]`` that are here, ``[rows, ...]``; ``whole`` itself in one process."""
        return whole if self.count == 1 else whole[self.rank :: self.count].contiguous()

    def before(self, number: int) -> int:
        """How many of the first ``number`` rows of the batch are here."""
        return len(range(self.rank, number, self.count))

    def left_out(self, number: int) -> int:
        """How many leading rows are left out here of a forward that leaves out the first ``number`` of the batch.

        Where the forward takes place at all it does so in every process, be it of one row more than is needed: sharded
        parameters are gathered in it by all of them together.
        """
        here = self.before(number)
        return here - 1 if number < self.total and here == self.rows else here

    def add_up_(self, tensor: Tensor) -> Tensor:
        """Replace ``tensor`` by its sum over the processes, on its device, without waiting for it."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor


@dataclass(frozen=True)
class Processes:
    """The processes of a run: this one's number, and how many there are."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    def share(self, total: int) -> Share:
        """This process's share of a batch of ``total`` rows."""
        return Share(total, self.rank, self.count)

    def all_agree(self, value: bool, device: torch.device) -> bool:
        """Whether ``value`` is true in every process. Waits for the device."""
        if self.count == 1:
            return value
        wrong = torch.tensor(int(not value), device=device)
        dist.all_reduce(wrong)
        return not bool(wrong)

    def deal(self, total: int, size: int) -> list[range]:
        """This process's batches, in turn, of ``total`` rows in batches of ``size``.

        Every process has as many, as each may take part in forwards of a sharded network: for that the last batch may
        come more than once.
        """
        batches = -(-total // size)
        numbers = range(self.rank, -(-batches // self.count) * self.count, self.count)
        starts = [min(number, batches - 1) * size for number in numbers]
        return [range(start, min(start + size, total)) for start in starts]

    def collect(self, batches: list[Tensor], total: int, size: int) -> Tensor | None:
        """All ``total`` rows in order, of what each process made of its batches of :meth:`deal`.

        ``batches`` are on the CPU, and so is what the first process gets; the others get None.
        """
        if self.count == 1:
            return torch.cat(batches)
        # Only the last batch may be smaller, so that what fills it up, and what came more than once, are at the end.
        own = batches[0].new_zeros(len(batches), size, *batches[0].shape[1:])
        for place, batch in zip(own, batches, strict=True):
            place[: len(batch)] = batch
        everywhere = [torch.empty_like(own) for _ in range(self.count)] if self.first else None
        dist.gather(own, everywhere)
        return torch.stack(everywhere, dim=1).flatten(0, 2)[:total] if everywhere is not None else None
