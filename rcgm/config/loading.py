"""From a YAML file and ``key=value`` words to a checked configuration."""

from __future__ import annotations

import os
import typing
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from rcgm.config.build import build_objective_from
from rcgm.config.components import bind_arguments, look_up, plain_defaults, to_plain
from rcgm.config.errors import ConfigError, unknown_name
from rcgm.config.old_keys import with_new_keys
from rcgm.config.registries import REGISTRIES, expand_preset, supplied_by_data
from rcgm.config.schema import ComponentConfig, TrainConfig
from rcgm.config.yaml_text import dump_yaml, parse_yaml
from rcgm.networks import NETWORKS
from rcgm.objectives import InputGuidance

__all__ = ["apply_overrides", "config_to_yaml", "load_config", "parse_config"]

MANY_STEPS = ("euler", "ucgm_multi")
"""Samplers of objectives that train for many steps alone."""


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a configuration file, apply ``section.key=value`` overrides and check everything that can be checked.

    The result is resolved: it holds every default, those of the named classes included.

    Raises:
        FileNotFoundError: no such file.
        ConfigError: the file or an override cannot be used; the message names each offending key and the nearest valid.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no configuration file '{path}'")
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: must hold a mapping of sections, got {type(values).__name__}")
    return parse_config(apply_overrides(values, overrides))


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of ``values`` with each ``a.b.c=value`` set. Values are read as YAML; a mapping replaces a whole section.

    Raises:
        ConfigError: a word is not of that form, its value is not YAML, or its path leads through a plain value.
    """
    result = deepcopy(dict(values))
    for word in overrides:
        key, equals, text = word.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError(f"override '{word}' must have the form section.key=value")
        try:
            value = parse_yaml(text)
        except ValueError as error:
            raise ConfigError(f"override '{word}': {error}") from error
        section = result
        for depth, part in enumerate(parts[:-1], start=1):
            if section.get(part) is None:
                section[part] = {}
            section = section[part]
            if not isinstance(section, dict):
                raise ConfigError(f"override '{word}': '{'.'.join(parts[:depth])}' is {section!r}, not a section")
        section[parts[-1]] = value
    return result


def parse_config(values: Mapping[str, Any]) -> TrainConfig:
    """Check plain values against the schema and the constructors of the named classes, and fill in all defaults.

    Raises:
        ConfigError: see :func:`load_config`.
    """
    try:
        config = TrainConfig.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError("; ".join(_complaint(item) for item in error.errors())) from error
    problems, resolved = [], {}
    for section in REGISTRIES:
        try:
            resolved[section] = _resolve_component(section, getattr(config, section))
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("; ".join(problems))
    config = config.model_copy(update=resolved)
    _check_weights(config)
    objective = build_objective_from(config)
    _check_guidance_input(config, objective)
    _check_discriminator(config, objective)
    if config.teacher is None and objective.needs_teacher():
        raise ConfigError(
            "objective: supervision or guidance is by a teacher, and there is none: set teacher.run to the folder of a "
            "trained run, or teacher.base to true"
        )
    return config


def config_to_yaml(config: TrainConfig) -> str:
    """The configuration as a YAML file that :func:`load_config` reads back to the same one."""
    return dump_yaml(config.model_dump(mode="json"))


def _resolve_component(section: str, component: ComponentConfig) -> ComponentConfig:
    factory = look_up(REGISTRIES[section], component.name, f"{section}.name")
    arguments = with_new_keys(section, component.name, expand_preset(section, factory, component.arguments))
    bound = bind_arguments(factory, arguments, section, given_later=supplied_by_data(section))
    if section == "objective":
        # Objectives are small values whose constructors check ranges, so those errors can be had before any work.
        try:
            factory(**bound)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{section}: {error}") from error
    given = {name: to_plain(value, otherwise=arguments[name]) for name, value in bound.items()}
    defaults = plain_defaults(factory)
    for name in supplied_by_data(section):
        defaults.pop(name, None)
    return ComponentConfig.model_validate({"name": component.name, **defaults, **given})


def _check_weights(config: TrainConfig) -> None:
    """Raise where weights are needed and the network has random ones, which no checkpoint would hold."""
    if config.init_from is not None or config.model.name in NETWORKS:
        return
    for key, needed in (
        ("tune: lora", config.tune == "lora"),
        ("teacher.base", config.teacher is not None and config.teacher.base),
    ):
        if needed:
            raise ConfigError(
                f"{key} needs a network that has weights: set init_from to those of '{config.model.name}', or model to "
                f"one of {', '.join(NETWORKS)}"
            )


def _check_guidance_input(config: TrainConfig, objective: Any) -> None:
    """Raise unless the network takes guidance as an input where the objective gives it, and only there."""
    given = isinstance(getattr(objective, "guidance", None), InputGuidance)
    taken = bool(config.model.arguments.get("guidance_input", False))
    if given and not taken:
        raise ConfigError("objective.guidance input needs a network that takes it: set model.guidance_input to true")
    if taken and not given:
        raise ConfigError("model.guidance_input must be false unless objective.guidance is input, got true")


def _check_discriminator(config: TrainConfig, objective: Any) -> None:
    """Raise unless the objective learns the steps to data that a discriminator judges."""
    if config.discriminator is not None and objective.sampler in MANY_STEPS:
        raise ConfigError(
            f"discriminator must be left out with the objective {config.objective.name}, which trains for many steps: "
            "it judges samples of one"
        )


def _complaint(item: Mapping[str, Any]) -> str:
    location = [str(part) for part in item["loc"]]
    path = ".".join(location)
    if item["type"] == "extra_forbidden":
        return unknown_name("key", ".".join(location[:-1]), location[-1], _section(location[:-1]).model_fields)
    if item["type"] == "missing":
        return f"{path}: missing, and it has no default"
    if item["type"] == "value_error":
        reason = str(item["ctx"]["error"])
        return f"{path}: {reason}" if path else reason
    return f"{path}: {item['msg']}; got {item['input']!r}"


def _section(location: Sequence[str]) -> type[BaseModel]:
    section: type[BaseModel] = TrainConfig
    for part in location:
        annotation = section.model_fields[part].annotation
        optional = [item for item in typing.get_args(annotation) if item is not type(None)]
        section = typing.cast("type[BaseModel]", optional[0] if optional else annotation)
    return section
