"""Conditions: None, a tensor, or a nest of dicts, tuples and lists of tensors, each with a leading batch dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rcgm.engine.combination import per_sample
from rcgm.engine.formats import joined

Condition = Any
"""None, a tensor, or a nest of dicts, tuples and lists of tensors; the first dimension of each is the batch."""


def check(name: str, condition: Condition, batch: int, *, may_be_one: bool = False) -> None:
    """Check that every leaf is a tensor with ``batch`` rows (or 1, if allowed).

    Raises:
        TypeError, ValueError: for a leaf that is not; the message names it.
    """
    if condition is None:
        return
    for path, leaf in pytree.tree_flatten_with_path(condition)[0]:
        where = f"{name}{pytree.keystr(path)}"
        if not isinstance(leaf, Tensor):
            raise TypeError(f"{where} must be a tensor, got {type(leaf).__name__}")
        allowed = (batch, 1) if may_be_one else (batch,)
        if leaf.ndim == 0 or leaf.shape[0] not in allowed:
            needed = " or ".join(str(rows) for rows in dict.fromkeys(allowed))
            raise ValueError(f"{where} must have a leading dimension of {needed}, got the shape {list(leaf.shape)}")


def check_null(condition: Condition, null: Condition, batch: int) -> None:
    """Check that ``null`` can replace ``condition``: the same structure and shapes, with ``batch`` rows or 1.

    Raises:
        TypeError, ValueError: if it cannot.
    """
    check("null_cond", null, batch, may_be_one=True)
    have, want = pytree.tree_structure(null), pytree.tree_structure(condition)
    if have != want:
        raise ValueError(f"null_cond must have the structure of cond, {want}, got {have}")
    if condition is None:
        return
    leaves = zip(pytree.tree_flatten_with_path(null)[0], pytree.tree_leaves(condition), strict=True)
    for (path, null_leaf), leaf in leaves:
        if null_leaf.shape[1:] != leaf.shape[1:]:
            raise ValueError(
                f"null_cond{pytree.keystr(path)} must have samples of the shape {list(leaf.shape[1:])}, as cond has, "
                f"got {list(null_leaf.shape[1:])}"
            )


def concatenate(conditions: Sequence[Condition]) -> Condition:
    """The conditions one after the other along the batch."""
    if len(conditions) == 1 or conditions[0] is None:
        return conditions[0]
    return pytree.tree_map(lambda *leaves: joined(leaves), *conditions)


def rows_of(condition: Condition, rows: slice, batch: int) -> Condition:
    """The ``rows`` of a condition of ``batch`` rows; itself if these are all."""
    if condition is None or rows == slice(0, batch):
        return condition
    return pytree.tree_map(lambda leaf: leaf[rows], condition)


def every(condition: Condition, start: int, stride: int) -> Condition:
    """The rows ``start``, ``start + stride``, ... of the condition, contiguous."""
    return None if condition is None else pytree.tree_map(lambda leaf: leaf[start::stride].contiguous(), condition)


def moved(condition: Condition, device: torch.device) -> Condition:
    """The condition on ``device``, without waiting for the copy."""
    return None if condition is None else pytree.tree_map(lambda leaf: leaf.to(device, non_blocking=True), condition)


def expanded(condition: Condition, batch: int) -> Condition:
    """A condition of one row repeated to ``batch`` rows, without copying it."""
    return None if condition is None else pytree.tree_map(lambda leaf: leaf.expand(batch, *leaf.shape[1:]), condition)


def with_guidance(condition: Condition, guidance: Tensor | None) -> Condition:
    """The condition with scale and interval of guidance, ``[B, 3]``, as ``{"labels": ..., "guidance": ...}``; a mapping
    gets the key ``guidance``. None changes nothing.

    Raises:
        TypeError: for another nest of tensors, which has no place for them.
    """
    if guidance is None:
        return condition
    if condition is None or isinstance(condition, Tensor):
        condition = {} if condition is None else {"labels": condition}
    elif not isinstance(condition, Mapping):
        raise TypeError(
            f"cond must be None, labels or a mapping with guidance as an input, got {type(condition).__name__}"
        )
    return {**condition, "guidance": guidance}


def guidance_everywhere(scale: Tensor) -> Tensor:
    """``(scale, 0, 1)`` for each sample, ``[B, 3]``: guidance of ``scale`` ``[B]`` at all times; none for 1."""
    return torch.stack([scale, torch.zeros_like(scale), torch.ones_like(scale)], dim=1)


def dropped(condition: Condition, null: Condition, drop: Tensor) -> Condition:
    """``null`` in the samples where ``drop`` ``[B]`` is true."""

    def choose(leaf: Tensor, null_leaf: Tensor) -> Tensor:
        return torch.where(per_sample(drop, leaf), null_leaf, leaf)

    return pytree.tree_map(choose, condition, null)
