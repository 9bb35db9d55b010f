"""Features of a frozen network: what some of its blocks put out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.checks import whole_number
from rcgm.distributed import blocks_of
from rcgm.roles import base_of

__all__ = ["Features"]


class Features:
    """Evaluates ``network`` and returns the outputs of ``count`` of its blocks, the last one and others evenly before.

    Make it before the network is compiled: what is hooked into a compiled block is not seen.

    Args:
        network: frozen, ``(x, t, r, cond)``. Its blocks are those that FSDP shards one by one, or the ModuleLists named
            by its ``image_block_names``. They put out tokens ``[B, L, C]``, or a tuple of tensors whose entry
            ``image_output`` (default: the last one) is that.
        count: of blocks; all, if there are fewer.

    Raises:
        ValueError: ``network`` has no blocks, or ``count`` is below 1.
    """

    def __init__(self, network: nn.Module, count: int = 4) -> None:
        base = base_of(network)
        blocks = blocks_of(base, getattr(base, "image_block_names", None))
        if not blocks:
            raise ValueError(
                f"network must have blocks, in a ModuleList named by block_names, got {type(network).__name__}"
            )
        chosen = _evenly(blocks, whole_number("count", count))
        self._network = network
        self._kept: list[Tensor] | None = None
        place = getattr(base, "image_output", -1)

        def keep(block: nn.Module, inputs: Any, output: Any) -> None:
            if self._kept is not None:
                self._kept.append(output[place] if isinstance(output, tuple) else output)

        for block in chosen:
            block.register_forward_hook(keep)

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> list[Tensor]:
        """Tokens ``[B, L, C]`` of each block for ``x`` ``[B, ...]`` at the times ``t`` ``[B]``, with ``r = t``.

        With gradient to ``x`` where it takes one.
        """
        self._kept = []
        try:
            self._network(x, t, t, cond)
            return self._kept
        finally:
            self._kept = None

    def widths(self, x: Tensor, cond: Any = None) -> list[int]:
        """The features of a token of each block, from a forward of ``x`` ``[B, ...]`` without gradient."""
        with torch.no_grad():
            return [tokens.shape[-1] for tokens in self(x, torch.ones(len(x), device=x.device), cond)]


def _evenly(blocks: Sequence[nn.Module], count: int) -> list[nn.Module]:
    count = min(count, len(blocks))
    return [blocks[len(blocks) * number // count - 1] for number in range(1, count + 1)]
