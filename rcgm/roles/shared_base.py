"""One frozen network with the adapters of all roles on it."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from rcgm.roles.switched import Switched

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

__all__ = ["SharedBase"]

SAMPLED = 64
"""Values of each tensor that the fingerprint is made of, at least."""


class SharedBase:
    """A frozen network whose layers carry the adapters of several roles, of which one is active at a time.

    Outside :meth:`using` none is active: the network is then what it was before it had adapters.

    Args:
        network: in evaluation mode, without trained parameters but those of adapters.
        adapted: its layers of peft by name, with an adapter of ``first``.
        switched: its modules that are trained in full, by name, with one of ``first``.
        first: name of the first role.
    """

    def __init__(
        self, network: nn.Module, adapted: Mapping[str, LoraLayer], switched: Mapping[str, Switched], first: str
    ) -> None:
        self.network = network
        self._adapted = dict(adapted)
        self._switched = dict(switched)
        self._names = [first]
        self._active: str | None = None
        self._activate(None)

    @property
    def active(self) -> str | None:
        """The role that calls of the network run as; None for the network by itself."""
        return self._active

    @property
    def adapted(self) -> Mapping[str, LoraLayer]:
        """The layers that carry adapters, by their place in the network."""
        return self._adapted

    @property
    def switched(self) -> Mapping[str, Switched]:
        """The modules that each role has to itself, by their place in the network."""
        return self._switched

    def copy_of(self, role: str) -> str:
        """Make another role that begins with the values of ``role``, and return its name.

        Raises:
            ValueError: the network is sharded already.
        """
        if hasattr(self.network, "unshard"):
            raise ValueError("role must be copied before its network is sharded, got one that is: copy it first")
        name = f"role_{len(self._names)}"
        for layer in self._adapted.values():
            for attribute in (*layer.adapter_layer_names, *layer.other_param_names):
                by_role = getattr(layer, attribute, None)
                if by_role is not None and role in by_role:
                    by_role[name] = copy.deepcopy(by_role[role])
        for module in self._switched.values():
            module.add(name, module.by_role[role])
        self._names.append(name)
        return name

    def modules_of(self, role: str) -> dict[str, nn.Module]:
        """What is trained for ``role``, by its place in the network, such as ``blocks.0.attn.qkv.lora_A``."""
        modules: dict[str, nn.Module] = {}
        for place, layer in self._adapted.items():
            for attribute in layer.adapter_layer_names:
                by_role = getattr(layer, attribute)
                if role in by_role:
                    modules[f"{place}.{attribute}"] = by_role[role]
        return modules | {place: module.by_role[role] for place, module in self._switched.items()}

    def fingerprint(self) -> str:
        """A hash of the frozen weights: names, shapes, dtypes and some values of each, the same on every device.

        What the roles have of their own is left out.
        """
        own = [part for role in self._names for part in self.modules_of(role).values()]
        own += [module.base_module for module in self._switched.values()]
        left_out = {id(parameter) for part in own for parameter in part.parameters()}
        result = hashlib.sha256()
        for name, parameter in self.network.named_parameters():
            if id(parameter) in left_out:
                continue
            values = parameter.detach()
            if not isinstance(values, DTensor) and type(values) is not Tensor:  # quantized
                values = values.dequantize()
            values = values.flatten()
            some = values[:: max(1, len(values) // SAMPLED)].double().cpu()
            result.update(f"{name} {list(parameter.shape)} {parameter.dtype}".encode() + some.numpy().tobytes())
        return result.hexdigest()

    @contextlib.contextmanager
    def using(self, role: str | None) -> Iterator[None]:
        """Calls of the network run as ``role`` in the body; afterwards as before."""
        before = self._active
        self._activate(role)
        try:
            yield
        finally:
            self._activate(before)

    def pinned(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """``forward`` of a part of the network, which runs as the role that is active now whenever it is called.

        For activations that a backward computes again, when another role may be active, or none.
        """
        role = self._active

        def run(*inputs: Any, **named: Any) -> Any:
            with self.using(role):
                return forward(*inputs, **named)

        return run

    def _activate(self, role: str | None) -> None:
        # The layers by themselves: peft's set_adapter walks over all modules and changes which parameters take
        # gradients, which must stay as they are while the parameters are sharded.
        if role == self._active and role is not None:
            return
        # Past Module.__setattr__, which takes microseconds a layer, of which there may be hundreds in every forward.
        active = [] if role is None else role
        for layer in self._adapted.values():
            vars(layer)["_active_adapter"] = active
        for module in self._switched.values():
            module.active = role
        self._active = role
