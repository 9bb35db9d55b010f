"""Which classes the named sections of a configuration may name, and what their constructors take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rcgm.config.components import parameters_of
from rcgm.config.errors import ConfigError
from rcgm.data import DATASETS, DataInfo
from rcgm.models import MODELS
from rcgm.models.presets import with_preset
from rcgm.networks import NETWORKS
from rcgm.objectives import OBJECTIVES

__all__ = ["REGISTRIES", "arguments_from_data", "expand_preset", "supplied_by_data"]

REGISTRIES: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "data": DATASETS,
    "model": {**MODELS, **{name: network.from_pretrained for name, network in NETWORKS.items()}},
    "objective": OBJECTIVES,
}

# What each of these arguments of a model's constructor is for data of a given shape.
FROM_DATA: Mapping[str, Callable[[DataInfo], Any]] = {
    "input_size": lambda info: list(info.shape[1:]),
    "in_channels": lambda info: info.shape[0],
    "dim": lambda info: info.shape[0],
    "num_classes": lambda info: info.num_classes,
    "text_dim": lambda info: None if info.text is None else info.text.tensors["text"][-1],
}


def supplied_by_data(section: str) -> frozenset[str]:
    """The arguments that a configuration need not give, because the data decide them."""
    return frozenset(FROM_DATA) if section == "model" else frozenset()


def arguments_from_data(factory: Callable[..., Any], info: DataInfo) -> dict[str, Any]:
    """Those arguments of a model's constructor that the data decide."""
    return {name: FROM_DATA[name](info) for name in parameters_of(factory) if name in FROM_DATA}


def expand_preset(section: str, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """``arguments`` with ``preset``, of a model that has presets, replaced by what it stands for; the others win.

    Raises:
        ConfigError: there is no such preset.
    """
    if section != "model" or "preset" not in arguments or not hasattr(factory, "from_preset"):
        return dict(arguments)
    given = {name: value for name, value in arguments.items() if name != "preset"}
    try:
        return with_preset(arguments["preset"], given)
    except ValueError as error:
        raise ConfigError(f"{section}.{error}") from error
