"""LoRA adapters on the linear layers of a network."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from rcgm.checks import positive_float, whole_number
from rcgm.roles.role import Role
from rcgm.roles.shared_base import SharedBase
from rcgm.roles.switched import Switched

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

__all__ = ["lora_role"]

FIRST = "role_0"
TRAINED_IN_FULL = ("interval_embedder",)
"""Modules that a role has to itself, where the network has them: the interval is new to most networks."""


def lora_role(network: nn.Module, *, rank: int = 64, alpha: float = 64.0, targets: Sequence[str] | None = None) -> Role:
    """Freeze ``network`` and put an adapter on it: the first role, a student.

    Each adapted layer computes ``W x + (alpha / rank) B A x``, with ``A`` ``[rank, in]`` drawn from torch's own
    generator and ``B`` ``[out, rank]`` 0: at first the role is the network. The adapters are float32 (float64 for a
    float64 network), whatever the dtype of the network. A module called ``interval_embedder`` is trained in full.

    ``copy.deepcopy(role)`` makes the target, ``role.without_adapter()`` the teacher.

    Args:
        network: ``(x, t, r, cond)``; it is used as it is, not copied: it is frozen and put into evaluation mode, and
            its adapted layers are replaced by those of peft, which hold them.
        rank: of the adapters.
        alpha: their scale is ``alpha / rank``.
        targets: ends of the names of linear layers, such as ``"to_q"`` or ``"attn.qkv"``. Default: the network's
            ``lora_targets``; without those, all linear layers.

    Raises:
        ModuleNotFoundError: peft is not installed.
        TypeError, ValueError: an argument is out of its range, or a target names no linear layer.

    Source: Hu et al. 2021.
    """
    whole_number("rank", rank)
    positive_float("alpha", alpha)
    chosen = _chosen(network, targets)
    layers = _adapted(network.requires_grad_(False).eval(), chosen, rank, alpha)
    switched = {}
    for name in TRAINED_IN_FULL:
        module = getattr(network, name, None)
        if isinstance(module, nn.Module):
            switched[name] = Switched(module).eval()
            setattr(network, name, switched[name])
            switched[name].add(FIRST, module)
            _trained(switched[name].by_role[FIRST])
    return Role(SharedBase(network, layers, switched, FIRST), FIRST)


def _chosen(network: nn.Module, targets: Sequence[str] | None) -> list[str]:
    """The names of the linear layers that get an adapter."""
    linear = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and name.partition(".")[0] not in TRAINED_IN_FULL
    ]
    if isinstance(targets, str):
        raise TypeError(f"targets must be a sequence of names, got {targets!r}: write it as a list")
    wanted: Collection[str] | None = targets
    if targets is None:
        wanted = [name for name in getattr(network, "lora_targets", ()) if _named(linear, name)] or None
    if wanted is None:
        return linear
    unknown = [target for target in wanted if not _named(linear, target)]
    if unknown or not wanted:
        kinds = sorted({re.sub(r"(^|.*\.)\d+\.", "", name) for name in linear})
        raise ValueError(
            f"targets must be names of linear layers of {type(network).__name__}, got {', '.join(unknown) or 'none'}: "
            f"there are {', '.join(kinds)}"
        )
    return [name for name in linear if any(_named([name], target) for target in wanted)]


def _named(names: Sequence[str], target: str) -> list[str]:
    return [name for name in names if name == target or name.endswith(f".{target}")]


def _adapted(network: nn.Module, names: Sequence[str], rank: int, alpha: float) -> dict[str, LoraLayer]:
    try:
        import peft
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("LoRA needs peft: pip install 'rcgm[text]'") from error
    pattern = "|".join(re.escape(name) for name in names)
    # Without dropout: the objectives subtract evaluations, and each would draw anew.
    settings = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=f"^(?:{pattern})$")
    with warnings.catch_warnings():
        # which says that adapters on quantized layers cannot be merged into them
        warnings.filterwarnings("ignore", message="TorchaoLoraLinear was instantiated")
        peft.inject_adapter_in_model(settings, network, FIRST)
    layers = {name: network.get_submodule(name).eval() for name in names}
    for layer in layers.values():
        for attribute in layer.adapter_layer_names:
            by_role = getattr(layer, attribute)
            if FIRST in by_role:
                _trained(by_role[FIRST])
    return layers


def _trained(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
        parameter.requires_grad_(True)
