"""A small module that is trained in full beside the adapters: each role has its own."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

__all__ = ["Switched"]


class Switched(nn.Module):
    """A module that is another one for each role, and the network's own where no role is active.

    Args:
        base_module: the network's own.

    Attributes:
        by_role: the modules of the roles.
        active: the role whose module is called, or None.
    """

    def __init__(self, base_module: nn.Module) -> None:
        super().__init__()
        self.base_module = base_module
        self.by_role = nn.ModuleDict()
        self.active: str | None = None

    def add(self, role: str, like: nn.Module) -> None:
        """Give ``role`` a copy of ``like``."""
        self.by_role[role] = copy.deepcopy(like)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        module = self.base_module if self.active is None else self.by_role[self.active]
        return module(*inputs, **named)
