"""Networks as the engine calls them: callables ``(x, t, r, cond) -> tensor``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from rcgm.engine.conditions import Condition
from rcgm.roles import Role

Network = Callable[[Tensor, Tensor, Tensor, Condition], Tensor]
"""``(x, t, r, cond)`` to a prediction of the shape of ``x`` ``[B, ...]``; times ``[B]``, ``0 <= r <= t <= 1``."""


def module_of(network: Any) -> nn.Module | None:
    """The module in ``network``: itself, or what it holds as ``network``, to any depth; None where there is none."""
    while not isinstance(network, nn.Module) and hasattr(network, "network"):
        network = network.network
    return network if isinstance(network, nn.Module) else None


def is_frozen(network: Network) -> bool:
    """True for a module, or a wrapper of one, with ordinary parameters that are not trained."""
    module = module_of(network)
    # A sharded module (it has unshard) keeps what a forward gathers, and the base of a role serves the student too.
    if module is None or hasattr(module, "unshard") or isinstance(module, Role):
        return False
    parameter = next(module.parameters(), None)
    return type(parameter) is nn.Parameter and not parameter.requires_grad


def predict(name: str, network: Network, x: Tensor, t: Tensor, r: Tensor, cond: Condition) -> Tensor:
    """The output ``[B, ...]`` of the network called ``name``.

    Raises:
        TypeError, ValueError: if it is not a tensor of the shape of ``x``.
    """
    output = network(x, t, r, cond)
    if not isinstance(output, Tensor):
        raise TypeError(f"the {name} network must return a tensor, got {type(output).__name__}")
    if output.shape != x.shape:
        raise ValueError(
            f"the {name} network must return the shape of its input, {list(x.shape)}, got {list(output.shape)}"
        )
    return output


@contextlib.contextmanager
def explained_forward_mode(name: str) -> Iterator[None]:
    """Raises ``ValueError`` with advice where forward-mode AD does not work with the network called ``name``."""
    try:
        yield
    except RuntimeError as error:  # NotImplementedError is one
        if not any(sign in str(error) for sign in ("forward AD", "forward-mode", "functorch", "jvp", "TensorWrapper")):
            raise
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"derivative jvp does not work with the {name} network: {reason} Use derivative central or auto, which "
            "need only forward passes"
        ) from error
