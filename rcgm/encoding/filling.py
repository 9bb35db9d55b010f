"""Filling the shards that are still to be written, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from rcgm.checks import whole_number
from rcgm.encoding.record import Record, ShardPlan, missing_shards

__all__ = ["ShardWriter", "fill_shards"]


class ShardWriter(Protocol):
    """A shard that is being filled."""

    def add(self, batch: Any) -> bool:
        """Encode the next batch; returns whether the shard is full."""
        ...

    def write(self) -> Record:
        """Write the shard, then its record."""
        ...


def fill_shards(
    plan: ShardPlan,
    items: Dataset,
    begin: Callable[[int], ShardWriter],
    *,
    batch_size: int,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    force: bool = False,
    on_items: Callable[[int], None] | None = None,
    collate: Callable[[list], Any],
) -> int:
    """Write the shards of this rank that are not there yet, or whose items have changed: each ``world_size``-th one.

    Args:
        plan: of the shards.
        items: what is encoded, by the numbers that ``plan.members`` gives.
        begin: makes the writer of a shard, by its number.
        batch_size: items that are encoded at a time.
        workers: processes that read items; 0 for this one.
        rank, world_size: which share of the shards this is, of how many.
        force: write all of them, and remove those that another plan has left in the folder.
        on_items: called with a number of items that have been encoded, or found in shards that are whole.
        collate: makes a batch of a list of items.

    Returns:
        How many shards were written.

    Raises:
        TypeError: a number is no integer.
        ValueError: a number is out of range, or the folder holds shards of another plan. Shards that were finished
            before an error stay.
    """
    whole_number("batch_size", batch_size, 1)
    whole_number("workers", workers, 0)
    missing = missing_shards(plan, rank, world_size, force=force)
    if on_items is not None:
        for number in range(rank, plan.shards, world_size):
            if number not in missing:
                on_items(len(plan.members(number)))
    loader = DataLoader(
        items,
        batch_sampler=list(_batches(plan, missing, batch_size)),  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate,
        generator=torch.Generator(),
    )
    batches = iter(zip(_batches(plan, missing, batch_size), loader, strict=True))
    for number in missing:
        shard, full = begin(number), False
        while not full:
            numbers, batch = next(batches)
            full = shard.add(batch)
            if on_items is not None:
                on_items(len(numbers))
        shard.write()
    return len(missing)


def _batches(plan: ShardPlan, shards: list[int], size: int) -> Iterator[list[int]]:
    for number in shards:
        members = plan.members(number)
        for start in range(0, len(members), size):
            yield list(members[start : start + size])
