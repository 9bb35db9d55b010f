"""A network that is an adapter on a shared base."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from rcgm.roles.shared_base import SharedBase

__all__ = ["Role", "base_of"]


class Role(nn.Module):
    """A network ``(x, t, r, cond)``: a frozen base, which other roles share, with an adapter of its own.

    Its parameters, and so its ``state_dict``, are those of the adapter and of the modules that are trained in full,
    called by their place in the base: ``blocks.0.attn.qkv.lora_A.weight``, ``interval_embedder.linear_1.weight``.
    The base is no part of it, except that moving a role to a device or dtype moves the base with all roles on it.

    ``copy.deepcopy`` makes another role on the same base, with values of its own.

    Base and adapters are always in evaluation mode, whatever the mode of a role: what is frozen draws no dropout.

    Args:
        shared: the base.
        name: of an adapter on it; None for the base by itself, a network without parameters.
    """

    def __init__(self, shared: SharedBase, name: str | None) -> None:
        super().__init__()
        self._shared = shared
        self._name = name
        if name is not None:
            for place, module in shared.modules_of(name).items():
                _register(self, place.split("."), module)

    @property
    def shared(self) -> SharedBase:
        """The base and all adapters on it."""
        return self._shared

    @property
    def name(self) -> str | None:
        """Of the adapter; None for the base by itself."""
        return self._name

    @property
    def num_classes(self) -> int | None:
        """Classes that the base takes, or None."""
        return getattr(self._shared.network, "num_classes", None)

    def without_adapter(self) -> Role:
        """The base by itself as a role: the teacher that costs no memory."""
        return Role(self._shared, None)

    def on_own_base(self) -> Role:
        """The same role on a copy of the base, which may be moved or converted without the other roles."""
        return Role(copy.deepcopy(self._shared), self._name)

    def forward(self, x: Tensor, t: Tensor, r: Tensor, cond: Any = None) -> Tensor:
        """The base's answer with this role's adapter."""
        with self._shared.using(self._name):
            return self._shared.network(x, t, r, cond)

    def train(self, mode: bool = True) -> Role:
        """Set the mode of the role, by which callers know what it is used for; the base keeps its own."""
        self.training = mode
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Role:
        twin = Role(self._shared, None if self._name is None else self._shared.copy_of(self._name))
        twin.training = self.training
        memo[id(self)] = twin
        return twin

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Role:
        self._shared.network._apply(fn, recurse)
        return self


def base_of(network: nn.Module) -> nn.Module:
    """The module that holds all parameters of ``network``: itself, or the base of a role."""
    return network.shared.network if isinstance(network, Role) else network


def _register(module: nn.Module, place: list[str], part: nn.Module) -> None:
    first, *rest = place
    if not rest:
        module.add_module(first, part)
        return
    if first not in module._modules:
        module.add_module(first, nn.Module())
    _register(module._modules[first], rest, part)
