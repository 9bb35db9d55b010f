"""YAML as people expect it: ``1e-3`` is a number, and a key given twice is an error."""

from __future__ import annotations

import re
from typing import Any

import yaml

__all__ = ["dump_yaml", "parse_yaml"]


class _Loader(yaml.SafeLoader):
    pass


def _mapping_without_repeats(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    repeated = [key for index, key in enumerate(keys) if key in keys[:index]]
    if repeated:
        raise yaml.constructor.ConstructorError(None, None, f"key '{repeated[0]}' is given twice", node.start_mark)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_repeats)
# YAML 1.1 wants a dot in every number with an exponent and would read 1e-3 as text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """The plain values in ``text``.

    Raises:
        ValueError: the text is not YAML, or a mapping holds a key twice; the message gives the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{place}{getattr(error, 'problem', None) or error}") from error


def dump_yaml(values: Any) -> str:
    """``values`` as YAML, keys in their own order, short lists on one line."""
    return yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=120)
