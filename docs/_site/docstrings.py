"""Turns what docstrings say in the style of Sphinx into what mkdocstrings reads."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|data|meth|mod|attr):`(?P<target>[^`]+)`")
GROUP = re.compile(
    r"^(?P<indent> +)(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)+):(?P<text> .*(?:\n(?P=indent) +\S.*)*)", re.MULTILINE
)
SECTION = re.compile(r"^(?P<indent> *)Args:\n(?P<body>(?:(?P=indent) +\S.*\n|\n)+)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """``:func:`name``` becomes code; arguments that are described together are listed one by one."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring before it is read."""
        if obj.docstring is not None:
            obj.docstring.value = rewritten(obj.docstring.value)


def rewritten(text: str) -> str:
    """``text`` without roles, and with one line for each argument."""
    text = ROLE.sub(lambda role: f"`{_shown(role['target'])}`", text)
    return SECTION.sub(lambda section: GROUP.sub(_each, section[0]), f"{text}\n").rstrip("\n")


def _shown(target: str) -> str:
    return target.rpartition(".")[2] if target.startswith("~") else target


def _each(group: re.Match[str]) -> str:
    return "\n".join(f"{group['indent']}{name}:{group['text']}" for name in group["names"].split(", "))
