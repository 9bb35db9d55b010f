"""From a checked configuration to the objects that it describes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from rcgm.config.components import bind_arguments
from rcgm.config.errors import ConfigError
from rcgm.config.registries import REGISTRIES, arguments_from_data
from rcgm.config.schema import ComponentConfig, TrainConfig
from rcgm.data import DataInfo

__all__ = ["build_dataset_from", "build_model_from", "build_objective_from", "fit_to_data"]


def fit_to_data(config: TrainConfig, info: DataInfo) -> TrainConfig:
    """The configuration with the arguments of the model that the data decide (shape, classes), where it left them out.

    Raises:
        ConfigError: a model argument is missing that the data do not decide either; the model takes fewer classes
            than the data have, or classes where the data have none; or it takes text and the data have no captions, or
            the other way round.
    """
    factory = REGISTRIES["model"][config.model.name]
    _check_text(config.model.name, factory, info)
    model = config.model.with_defaults(arguments_from_data(factory, info))
    bound = bind_arguments(factory, model.arguments, "model")
    _check_classes(bound.get("num_classes"), info)
    return config.model_copy(update={"model": model})


def build_dataset_from(config: TrainConfig) -> Any:
    """The data set of ``config``.

    Raises:
        ConfigError: its constructor refuses the arguments.
    """
    return _build("data", config.data)


def build_model_from(config: TrainConfig) -> nn.Module:
    """The network of a configuration that has been fitted to its data, with weights drawn from torch's own generator.

    Raises:
        ConfigError: its constructor refuses the arguments.
    """
    return _build("model", config.model)


def build_objective_from(config: TrainConfig) -> Any:
    """The objective of ``config``.

    Raises:
        ConfigError: its constructor refuses the arguments.
    """
    return _build("objective", config.objective)


def _check_classes(given: int | None, info: DataInfo) -> None:
    if given is None:
        return
    if info.num_classes is None:
        raise ConfigError(f"model.num_classes must be left out for data without classes, got {given}")
    if given < info.num_classes:
        raise ConfigError(
            f"model.num_classes must be at least the number of classes of the data, {info.num_classes}, got {given}: "
            "leave it out to take that of the data"
        )


def _check_text(name: str, factory: Callable[..., Any], info: DataInfo) -> None:
    # a published network is made by a class method, which belongs to the class that names the conditions
    needed = getattr(getattr(factory, "__self__", factory), "conditions", None)
    if needed is None:
        if info.text is not None:
            raise ConfigError(f"model {name} takes no captions, and the data have some: choose a network that does")
        return
    if info.text is None:
        raise ConfigError(
            f"model {name} needs images with captions: encode them with `rcgm encode --text`, and set data.name to "
            "encoded_pairs"
        )
    missing = [part for part in needed if part not in info.text.tensors]
    if missing:
        raise ConfigError(
            f"model {name} needs the conditions {', '.join(needed)}, the data have {', '.join(info.text.tensors)}: "
            f"encode them with `rcgm encode --text --family {name}`"
        )


def _build(section: str, component: ComponentConfig) -> Any:
    factory = REGISTRIES[section][component.name]
    arguments = bind_arguments(factory, component.arguments, section)
    try:
        return factory(**arguments)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{section} {component.name}: {error}") from error
