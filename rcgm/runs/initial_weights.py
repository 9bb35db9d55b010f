"""Initial weights of a run from a file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from rcgm.config import ConfigError, InitFromConfig
from rcgm.models.pretrained import read_pretrained
from rcgm.models.published import LAYOUTS, initialise, read_weights
from rcgm.transports import TRANSPORTS, Transport

__all__ = ["begin_from"]


def begin_from(config: InitFromConfig, network: nn.Module, transport: Transport) -> None:
    """Give ``network`` the weights of ``config``, in place.

    Raises:
        ConfigError: they cannot be read, do not fit the network, or predict something else than ``transport`` asks for.
    """
    try:
        if config.layout == "rcgm":
            _fill(network, _own_weights(config))
            return
        wanted = LAYOUTS[config.layout].transport
        if type(transport) is not TRANSPORTS[wanted]:
            raise ValueError(
                f"weights of layout {config.layout} predict under the transport {wanted}, and the objective has "
                f"{transport}: set objective.transport={wanted}"
            )
        initialise(network, config.path, config.layout, weights=config.weights)
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(f"init_from: {error}") from error


def _own_weights(config: InitFromConfig) -> dict[str, Tensor]:
    if Path(config.path).is_dir():
        return read_pretrained(config.path)[1]
    return read_weights(config.path, config.weights)


@torch.no_grad()
def _fill(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    # what takes guidance as an input is 0 at first, so weights without it are those of the same network
    own = {name: tensor for name, tensor in network.state_dict().items() if name.startswith("guidance_embedder.")}
    try:
        network.load_state_dict({**own, **tensors})
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())) from error
