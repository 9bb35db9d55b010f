"""The network that a run trains, built before its training."""

from __future__ import annotations

import torch
from torch import nn

from rcgm.config import ConfigError, TrainConfig, build_model_from, build_objective_from
from rcgm.roles import Role, lora_role
from rcgm.runs.checkpoint import Checkpoint, CheckpointError
from rcgm.runs.initial_weights import begin_from

__all__ = ["base_note", "build_network", "check_base"]

NOTE = "base_fingerprint"


def build_network(config: TrainConfig, device: torch.device, *, begin: bool) -> nn.Module:
    """The network of ``config``, fitted to its data; random weights come from torch's own generator.

    With ``tune: lora`` it is a role on its base, which has the weights of ``config.init_from`` in any case: checkpoints
    do not hold them.

    Args:
        config: of the run.
        device: where the network goes.
        begin: whether a network that is trained in full gets the weights of ``config.init_from``, too. What goes on
            from a checkpoint does not need them.

    Raises:
        ConfigError: weights cannot be read or do not fit; or a section of the configuration is refused.
    """
    network = build_model_from(config).to(device)
    if config.init_from is not None and (begin or config.tune == "lora"):
        begin_from(config.init_from, network, build_objective_from(config).transport)
    if config.tune == "full":
        return network
    settings = config.lora
    try:
        return lora_role(network, rank=settings.rank, alpha=settings.alpha, targets=settings.targets)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"lora.{error}") from error


def base_note(network: nn.Module) -> dict[str, str]:
    """What a checkpoint keeps of the base of a role; nothing of other networks."""
    return {NOTE: network.shared.fingerprint()} if isinstance(network, Role) else {}


def check_base(checkpoint: Checkpoint, network: nn.Module) -> None:
    """Raise unless the base of ``network`` is the one that the adapters in ``checkpoint`` were trained on.

    Raises:
        CheckpointError: it is another one.
    """
    for name, value in base_note(network).items():
        if checkpoint.value(name, str) != value:
            raise CheckpointError(
                f"the adapters in '{checkpoint.path}' were trained on other weights than those that model.path or "
                "init_from has now: restore them"
            )
