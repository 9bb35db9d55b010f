"""Which rows of the batch of a step belong to this process and to this micro-batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Processes", "Share"]

LARGEST_DRAW = 2**22
"""Elements of noise per draw, for all processes and micro-batches."""


@dataclass(frozen=True)
class Share:
    """Rows ``first``, ``first + stride``, ... of the batch of a step, which has ``total`` rows.

    The rows are dealt out in turn to the micro-batches, and those of each in turn to the processes.
    Random numbers are drawn for the whole batch, the same everywhere, and each keeps those of its rows. So the numbers
    of a step do not depend on how it is split.

    Rows with ``r = t``, which need no target forward, are the first of the batch. So they are the first of
    each process and micro-batch too, and their numbers differ by at most one.

    Args:
        total: rows of the whole batch.
        rank, world_size: number of this process, and how many there are.
        micro_batch, micro_batches: number of the micro-batch, and how many there are.

    Raises:
        ValueError: there is no such process or micro-batch, or too few rows for each to have one.
    """

    total: int
    rank: int = 0
    world_size: int = 1
    micro_batch: int = 0
    micro_batches: int = 1

    def __post_init__(self) -> None:
        for name, value, number in (
            ("rank", self.rank, self.world_size),
            ("micro_batch", self.micro_batch, self.micro_batches),
        ):
            if not 0 <= value < number:
                raise ValueError(f"{name} must be from 0 to {number - 1}, got {value}")
        if self.total // self.micro_batches < self.world_size:
            raise ValueError(
                f"a batch must have a row for each of {self.world_size} processes in each of {self.micro_batches} "
                f"micro-batches, {self.stride} or more, got {self.total}: make batch_size larger or accumulate smaller"
            )

    @property
    def first(self) -> int:
        """The first of the own rows."""
        return self.micro_batch + self.micro_batches * self.rank

    @property
    def stride(self) -> int:
        """Distance between neighbouring own rows."""
        return self.micro_batches * self.world_size

    @property
    def rows(self) -> int:
        """Number of own rows."""
        return self.before(self.total)

    @property
    def together(self) -> int:
        """Number of rows of this micro-batch in all processes."""
        return len(range(self.micro_batch, self.total, self.micro_batches))

    def of(self, whole: Tensor) -> Tensor:
        """The own rows of ``whole`` ``[total, ...]``, as ``[rows, ...]``; ``whole`` itself if all rows are."""
        return whole if self.stride == 1 else whole[self.first :: self.stride].contiguous()

    def before(self, number: int) -> int:
        """How many of the first ``number`` rows of the batch are own rows."""
        return len(range(self.first, number, self.stride))

    def leading(self, number: int) -> int:
        """Leading own rows that a forward of the first ``number`` rows of the batch takes.

        If the forward of a micro-batch takes place, every process takes a row, as in :meth:`left_out`.
        """
        return max(self.before(number), int(self.micro_batch < number))

    def last(self, number: int) -> int:
        """How many of the last ``number`` rows of this micro-batch are own rows."""
        return self.rows - len(range(self.rank, self.together - number, self.world_size))

    def left_out(self, number: int) -> int:
        """Leading own rows that a forward leaves out which leaves out the first ``number`` of the batch.

        If the forward of a micro-batch takes place, it does so in every process, if necessary with one row more than
        needed: all processes gather sharded parameters together.
        """
        here = self.before(number)
        takes_place = self.micro_batch + self.micro_batches * (self.together - 1) >= number
        return here - 1 if takes_place and here == self.rows else here

    def normal(self, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """The own rows of noise from N(0, 1) for the whole batch; shape, dtype and device of ``like``.

        The rows of the others are drawn too, a few at a time, and dropped. That costs little compared to what a network
        does with a row, and takes no memory beyond the own rows.
        """
        at_once = max(1, LARGEST_DRAW // max(1, like[0].numel()))
        options = {"generator": generator, "device": like.device, "dtype": like.dtype}
        if self.stride == 1 and self.total <= at_once:
            return torch.randn(like.shape, **options)
        here = torch.empty(like.shape, device=like.device, dtype=like.dtype)
        for start in range(0, self.total, at_once):
            stop = min(start + at_once, self.total)
            drawn = torch.randn((stop - start, *like.shape[1:]), **options)
            here[self.before(start) : self.before(stop)] = drawn[(self.first - start) % self.stride :: self.stride]
        return here

    def add_up_(self, tensor: Tensor) -> Tensor:
        """Replace ``tensor`` by its sum over the processes, on its device, without waiting for the device."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor


@dataclass(frozen=True)
class Processes:
    """The processes of a run: the rank of this one, and the world size."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """True on rank 0, the only one that writes files and logs."""
        return self.rank == 0

    def share(self, total: int, micro_batch: int = 0, micro_batches: int = 1) -> Share:
        """This process's share of one of the micro-batches of a batch of ``total`` rows."""
        return Share(total, self.rank, self.world_size, micro_batch, micro_batches)

    def all_agree(self, value: bool, device: torch.device) -> bool:
        """Whether ``value`` is true in every process. Waits for the device."""
        if self.world_size == 1:
            return value
        wrong = torch.tensor(int(not value), device=device)
        dist.all_reduce(wrong)
        return not bool(wrong)

    def deal(self, total: int, size: int) -> list[range]:
        """The batches of this process: ``total`` rows are cut into batches of ``size``, which are dealt out in turn.

        Every process has the same number of batches, as it may take part in forwards of a sharded network. So the last
        batch may appear more than once.
        """
        batches = -(-total // size)
        numbers = range(self.rank, -(-batches // self.world_size) * self.world_size, self.world_size)
        starts = [min(number, batches - 1) * size for number in numbers]
        return [range(start, min(start + size, total)) for start in starts]

    def collect(self, batches: list[Tensor], total: int, size: int) -> Tensor | None:
        """All ``total`` rows in order, made by the processes from their batches of :meth:`deal`.

        ``batches`` are on the CPU, and so is the result on rank 0; the other ranks get None.
        """
        if self.world_size == 1:
            return torch.cat(batches)
        # Only the last batch may be smaller, so that what fills it up, and what came more than once, are at the end.
        own = batches[0].new_zeros(len(batches), size, *batches[0].shape[1:])
        for place, batch in zip(own, batches, strict=True):
            place[: len(batch)] = batch
        everywhere = [torch.empty_like(own) for _ in range(self.world_size)] if self.is_main else None
        dist.gather(own, everywhere)
        return torch.stack(everywhere, dim=1).flatten(0, 2)[:total] if everywhere is not None else None
