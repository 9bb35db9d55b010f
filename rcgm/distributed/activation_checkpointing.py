"""Activation checkpointing: activations of the forward are dropped and recomputed in the backward."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

__all__ = ["recomputed"]

EXPENSIVE = ("mm", "addmm", "bmm", "baddbmm", "_flash_attention_forward", "_efficient_attention_forward")
"""Operators of aten whose results are kept: matrix products. Operators of attention are found by their names."""


def recomputed(
    forward: Callable[..., Any],
    *,
    selective: bool,
    pinned: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda forward: forward,
) -> Callable[..., Any]:
    """``forward``, whose activations are not kept, or with ``selective`` only those of matrix products and attention.

    Selective recomputation costs little time, as norms, modulations and activation functions are limited by memory
    and not by arithmetic; full recomputation costs one more forward.

    Args:
        forward: of a block.
        selective: see above.
        pinned: makes of ``forward`` one that does in the backward what it would do now, where a state of the network
            decides about that (:meth:`rcgm.roles.SharedBase.pinned`).
    """
    contexts = functools.partial(create_selective_checkpoint_contexts, _policy) if selective else None
    options = {} if contexts is None else {"context_fn": contexts}

    def run(*inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)
        # A compiler traces both forwards here and now, in one state.
        kept = forward if torch.compiler.is_compiling() else pinned(forward)
        return checkpoint(kept, *inputs, use_reentrant=False, **options, **named)

    return run


def _policy(context: Any, operator: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
    name = getattr(operator, "_schema", None) and operator._schema.name
    namespace, _, short = str(name).partition("::")
    keep = short in EXPENSIVE if namespace == "aten" else "flash" in short
    keep = keep or short.startswith("_scaled_dot_product")
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE
