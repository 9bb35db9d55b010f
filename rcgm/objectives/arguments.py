"""Checks of the arguments that an objective is called with, before any work."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rcgm.distributed.shares import Share
from rcgm.engine import conditions
from rcgm.engine.conditions import Condition
from rcgm.engine.networks import Network
from rcgm.objectives.settings import Settings


def check_call(
    objective: Settings,
    x: Any,
    cond: Condition,
    null_cond: Condition,
    noise: Tensor | None,
    dropped: Tensor | None,
    generator: torch.Generator | None,
    teacher: Network | None,
    share: Share | None,
) -> None:
    """Raise unless the arguments of a call of ``objective`` fit one another.

    Args:
        objective: what is called.
        x, cond, null_cond, noise, dropped, generator, teacher, share: as in ``Objective.__call__``.

    Raises:
        TypeError, ValueError: for an argument that does not fit; the message names it.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}: scale images to [-1, 1]")
    if x.ndim < 2 or x.shape[0] == 0:
        raise ValueError(f"x must have the shape [B, ...] with B > 0, got {list(x.shape)}")
    if share is not None and share.rows != x.shape[0]:
        raise ValueError(f"x must hold the {share.rows} rows of {share}, got {x.shape[0]}")
    if noise is not None and noise.shape != x.shape:
        raise ValueError(f"noise must have the shape of x, {list(x.shape)}, got {list(noise.shape)}")
    if dropped is not None:
        _check_dropped(dropped, x, cond)
    if generator is not None and generator.device.type != x.device.type:
        raise ValueError(f"generator must be of the device of x, {x.device.type}, got {generator.device.type}")
    if teacher is None and objective.needs_teacher():
        raise ValueError("teacher must be given: supervision or guidance is by a teacher, got None")
    conditions.check("cond", cond, x.shape[0])
    if null_cond is not None:
        conditions.check_null(cond, null_cond, x.shape[0])
    elif dropped is not None or (cond is not None and objective.needs_null_condition()):
        raise ValueError(
            "null_cond must be given with label_dropout, dropped or guidance: what a dropped condition becomes"
        )


def _check_dropped(dropped: Any, x: Tensor, cond: Condition) -> None:
    if not isinstance(dropped, Tensor) or dropped.dtype != torch.bool:
        got = dropped.dtype if isinstance(dropped, Tensor) else type(dropped).__name__
        raise TypeError(f"dropped must be a tensor of bool, got {got}")
    if dropped.shape != x.shape[:1] or dropped.device != x.device:
        got = f"{list(dropped.shape)} on {dropped.device}"
        raise ValueError(f"dropped must have the shape {list(x.shape[:1])} on {x.device}, got {got}")
    if cond is None:
        raise ValueError("cond must be given with dropped, which says where it is replaced, got None")
