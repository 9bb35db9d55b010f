"""What FSDP keeps beside the shards of a network, computed from the sizes of its blocks."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from rcgm.config import ParallelConfig
from rcgm.distributed import blocks_of
from rcgm.roles import base_of

__all__ = ["BUFFERS", "GATHERED", "GRADIENTS", "Sharding"]

GATHERED, BUFFERS, GRADIENTS = "gathered", "gradient buffers", "gradients"
AHEAD = 2
"""Blocks that are gathered at a time: the one that runs, and the next, whose gathering has begun."""


@dataclass(frozen=True)
class Sharding:
    """Over how many processes the parameters are sharded, and in which formats they travel.

    Args:
        shards: processes that a copy of the parameters is dealt out to.
        processes: all of them.
        gather_dtype, reduce_dtype: as in the section ``parallel``; None for the parameters' own.
    """

    shards: int
    processes: int
    gather_dtype: torch.dtype | None = None
    reduce_dtype: torch.dtype | None = None

    @classmethod
    def of(cls, config: ParallelConfig, processes: int) -> Sharding:
        """As ``config`` says for so many processes.

        Raises:
            ValueError: ``shard_size`` does not divide ``processes``.
        """
        shards = {"full": processes, "replicate": 1, "hybrid": config.shard_size or processes}[config.shard]
        if config.shard == "hybrid" and config.shard_size is None:
            shards = min(processes, int(os.environ.get("LOCAL_WORLD_SIZE", 8)))
        if processes % shards:
            raise ValueError(f"parallel.shard_size must divide the number of GPUs, {processes}, got {shards}")
        names = (config.gather_dtype, config.reduce_dtype or config.gather_dtype)
        return cls(shards, processes, *(None if name is None else getattr(torch, name) for name in names))

    def view(self, sharded: Iterable[str], *, whole_gradients: bool) -> dict[str, float]:
        """What a process holds of each part of the memory: its shards, and what is gathered where there are shards.

        Args:
            sharded: names of the parts that are sharded.
            whole_gradients: whether gradients are kept whole, as FSDP does until the last micro-batch.
        """
        view = dict.fromkeys(sharded, 1 / self.shards)
        if whole_gradients:
            view[GRADIENTS] = 1.0
        return {**view, GATHERED: float(self.shards > 1), BUFFERS: float(self.processes > 1)}

    def gathered(self, network: nn.Module, *, all_blocks: bool) -> int:
        """Bytes of gathered parameters: the rest of the network and the blocks at hand, or all of it."""
        blocks, rest = self._parts(network)
        return rest + (sum(blocks) if all_blocks else AHEAD * max(blocks, default=0))

    def gradient_buffers(self, network: nn.Module) -> int:
        """Bytes of the gradients of a block before they are summed, and of what is sent."""
        base = base_of(network)
        blocks = [self._size(block.parameters(), self.reduce_dtype, trained=True) for block in blocks_of(base)]
        return 2 * max(blocks, default=self._size(base.parameters(), self.reduce_dtype, trained=True))

    def _parts(self, network: nn.Module) -> tuple[list[int], int]:
        base = base_of(network)
        blocks = [self._size(block.parameters(), self.gather_dtype) for block in blocks_of(base)]
        return blocks, self._size(base.parameters(), self.gather_dtype) - sum(blocks)

    @staticmethod
    def _size(parameters: Iterable[nn.Parameter], dtype: torch.dtype | None, *, trained: bool = False) -> int:
        return sum(
            parameter.numel() * (dtype or parameter.dtype).itemsize
            for parameter in parameters
            if parameter.requires_grad or not trained
        )
