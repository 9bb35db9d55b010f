"""What a role leaves behind: its adapters alone, or the base with the adapters added to its weights."""

from __future__ import annotations

import torch
from torch import Tensor

from rcgm.roles.role import Role

__all__ = ["adapter_weights", "merged_weights"]


@torch.no_grad()
def adapter_weights(role: Role) -> dict[str, Tensor]:
    """The adapters of ``role`` alone, ``PLACE.lora_A.weight`` and ``PLACE.lora_B.weight``.

    The scale ``alpha / rank`` is in ``B``: the adapted layer computes ``W x + B A x``, in any tool that takes a file
    without an alpha to have the scale 1.
    """
    tensors = {}
    for place, layer in role.shared.adapted.items():
        tensors[f"{place}.lora_A.weight"] = layer.lora_A[role.name].weight.detach()
        tensors[f"{place}.lora_B.weight"] = layer.scaling[role.name] * layer.lora_B[role.name].weight
    return tensors


@torch.no_grad()
def merged_weights(role: Role) -> dict[str, Tensor]:
    """The ``state_dict`` of the network that ``role`` is, with the names and dtypes that it had before its adapters.

    Sums are made in float64 and rounded once, to the dtype of the base.

    Raises:
        ValueError: the base is quantized.
    """
    shared, name = role.shared, role.name
    places = tuple(f"{place}." for place in (*shared.adapted, *shared.switched))
    state = shared.network.state_dict()
    tensors = {key: tensor for key, tensor in state.items() if not key.startswith(places)}
    for place, layer in shared.adapted.items():
        base = layer.get_base_layer().state_dict()
        weight = base["weight"]
        if type(weight) is not Tensor or not weight.is_floating_point():
            raise ValueError("adapters must be exported alone where their network is quantized: use --lora")
        change = layer.lora_B[name].weight.double() @ layer.lora_A[name].weight.double()
        base["weight"] = (weight.double() + layer.scaling[name] * change).to(weight.dtype)
        tensors |= {f"{place}.{key}": tensor for key, tensor in base.items()}
    for place, module in shared.switched.items():
        tensors |= {f"{place}.{key}": tensor for key, tensor in module.by_role[name].state_dict().items()}
    return tensors
