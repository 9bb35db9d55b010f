"""The shards of a command, with a bar of the time that is left."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from tqdm import tqdm

from rcgm.distributed.ranks import Ranks
from rcgm.encoding.record import ShardPlan

__all__ = ["encode_with_bar"]


def encode_with_bar(
    encode: Callable[..., int], plan: ShardPlan, ranks: Ranks, options: argparse.Namespace, items: str
) -> str:
    """Write this rank's shards of ``plan``, then wait for the other ranks.

    Args:
        encode: takes the plan, and the options of :func:`~rcgm.encoding.filling.fill_shards`.
        plan, ranks: of the command.
        options: of the command, with ``batch_size``, ``workers`` and ``force``.
        items: what the shards are made of, such as "images".

    Returns:
        How many were written of how many, in words.
    """
    mine = sum(len(plan.members(number)) for number in range(ranks.rank, plan.shards, ranks.world_size))
    with tqdm(total=mine, unit=f" {items}", disable=ranks.rank != 0) as bar:
        written = encode(
            plan,
            batch_size=options.batch_size,
            workers=options.workers,
            rank=ranks.rank,
            world_size=ranks.world_size,
            on_items=bar.update,
            force=options.force,
        )
    ranks.wait()
    return f"{written} of {plan.shards} written" + (" by this rank" if ranks.world_size > 1 else "")
