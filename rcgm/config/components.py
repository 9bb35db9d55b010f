"""Building named classes from mappings: ``{name: rcgm, order: 2}`` is checked against the constructor of ``RCGM``."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from rcgm.config.errors import ConfigError, unknown_name
from rcgm.config.families import family_of, name_of
from rcgm.config.old_keys import with_new_keys
from rcgm.config.truth_values import refuse_truth_values

__all__ = ["bind_arguments", "look_up", "parameters_of", "plain_defaults", "to_plain"]


def look_up(registry: Mapping[str, Any], name: str, path: str) -> Any:
    """``registry[name]``, or a ``ConfigError`` that names the nearest entry."""
    if name not in registry:
        # The value is unknown here, not the key, so the suggestion is written without the path.
        raise ConfigError(f"{path}: " + unknown_name("name", "", str(name), registry))
    return registry[name]


def parameters_of(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The arguments of a class or function that can be given by name.

    The ``annotation`` of each is its resolved type, and the ``default`` of a dataclass field with a factory what the
    factory makes. Random generators are left out: no file can hold one.
    """
    hints = get_type_hints(_annotated(factory))
    fields = dataclasses.fields(factory) if dataclasses.is_dataclass(factory) else ()
    made = {field.name: field.default_factory() for field in fields if field.default_factory is not dataclasses.MISSING}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name: parameter.replace(annotation=hints.get(name, Any), default=made.get(name, parameter.default))
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind in named and torch.Generator not in _alternatives(hints.get(name, Any))
    }


def bind_arguments(
    factory: Callable[..., Any], arguments: Mapping[str, Any], path: str, *, given_later: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Keyword arguments for ``factory`` out of plain values.

    Every key must be an argument of ``factory``; every value is checked against, and converted to, the type written in
    its signature. Where that type is a dataclass, a mapping is built into it in the same way, to any depth; what the
    mapping leaves out is taken from the argument's own default, if that is such a dataclass.

    Args:
        factory: a class or a function with type annotations.
        arguments: plain values, as YAML gives them.
        path: the dotted path of ``arguments``, for messages.
        given_later: required arguments that may be missing because the caller adds them.

    Raises:
        ConfigError: on an unknown key, a missing one, or a value of the wrong type, all of them in one message.
    """
    parameters = parameters_of(factory)
    problems, bound = [], {}
    for name, value in arguments.items():
        if name not in parameters:
            problems.append(unknown_name("key", path, str(name), parameters))
            continue
        try:
            bound[name] = _convert(parameters[name], value, f"{path}.{name}")
        except ConfigError as error:
            problems.append(str(error))
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in arguments and name not in given_later:
            problems.append(f"{path}.{name}: missing, and it has no default")
    if problems:
        raise ConfigError("; ".join(problems))
    return bound


def plain_defaults(factory: Callable[..., Any]) -> dict[str, Any]:
    """The defaults of ``factory`` that can be written to YAML; dataclasses become mappings."""
    defaults = {
        name: to_plain(parameter.default, otherwise=_NOT_PLAIN)
        for name, parameter in parameters_of(factory).items()
        if parameter.default is not parameter.empty
    }
    return {name: value for name, value in defaults.items() if value is not _NOT_PLAIN}


_NOT_PLAIN = object()


def to_plain(value: Any, *, otherwise: Any) -> Any:
    """``value`` in numbers, strings, booleans, None, lists and mappings (dataclasses), or ``otherwise``."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    items: Any
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = name_of(value)
        items = {} if name is None else {"name": name}
        items |= {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    elif isinstance(value, Mapping):
        items = {str(key): item for key, item in value.items()}
    elif isinstance(value, (tuple, list)):
        plain = [to_plain(item, otherwise=_NOT_PLAIN) for item in value]
        return otherwise if any(item is _NOT_PLAIN for item in plain) else plain
    else:
        return otherwise
    plain_items = {key: to_plain(item, otherwise=_NOT_PLAIN) for key, item in items.items()}
    return otherwise if any(item is _NOT_PLAIN for item in plain_items.values()) else plain_items


def _annotated(factory: Callable[..., Any]) -> Any:
    if dataclasses.is_dataclass(factory):
        return factory
    return factory.__init__ if inspect.isclass(factory) else factory


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _convert(parameter: inspect.Parameter, value: Any, path: str) -> Any:
    annotation = parameter.annotation
    alternatives = _alternatives(annotation)
    if value is None and type(None) in alternatives:
        return None
    family = next((members for members in map(family_of, alternatives) if members is not None), None)
    if family is not None:
        return _build_member(family, parameter.default, value, path)
    nested = [item for item in alternatives if inspect.isclass(item) and dataclasses.is_dataclass(item)]
    if nested and isinstance(value, Mapping):
        return _build_nested(nested, parameter.default, value, path)
    plain = [item for item in alternatives if item not in nested and item is not type(None)]
    if not plain:
        names = ", ".join(sorted(parameters_of(nested[0])))
        raise ConfigError(f"{path}: must be a mapping with any of {names}; got {value!r}")
    return _check_value(Union[tuple(plain)], value, path)  # noqa: UP007 - built at run time


def _build_member(family: Mapping[str, type], default: Any, value: Any, path: str) -> Any:
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{path}: must be one of {', '.join(sorted(family))}, or a mapping with its name; got {value!r}"
        )
    # Without a name, what is said belongs to the default, or to the first of the family where there is none.
    name = value.get("name", name_of(default) or next(iter(family)))
    factory = look_up(family, name, path)
    arguments = with_new_keys(path, name, {key: item for key, item in value.items() if key != "name"})
    return _build_nested([factory], default, arguments, path)


def _build_nested(candidates: list[type], default: Any, value: Mapping[str, Any], path: str) -> Any:
    # Several dataclasses in one annotation: the first that knows every key, else the first, whose complaint is shown.
    factory = next((item for item in candidates if set(value) <= set(parameters_of(item))), candidates[0])
    inherited = to_plain(default, otherwise={}) if type(default) is factory else {}
    if name_of(default) is not None:
        inherited.pop("name", None)
    arguments = bind_arguments(factory, {**inherited, **value}, path)
    try:
        return factory(**arguments)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _check_value(annotation: Any, value: Any, path: str) -> Any:
    try:
        refuse_truth_values(annotation, value)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:
        # pydantic refuses a configuration for the few types that bring their own, such as its models
        adapter = TypeAdapter(annotation)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        wanted = "; or ".join(dict.fromkeys(item["msg"] for item in error.errors()))
        raise ConfigError(f"{path}: {wanted}; got {value!r}") from error
