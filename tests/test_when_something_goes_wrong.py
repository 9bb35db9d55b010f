"""The page of messages: each of them is in the program, and what the page says of `rcgm` is so."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "when_something_goes_wrong.md").read_text(encoding="utf-8")
TABLES = re.split(r"^## ", PAGE, flags=re.MULTILINE)
MESSAGES = [
    message
    for table in TABLES
    for row in re.findall(r"^\| (.*?) \|", table, flags=re.MULTILINE)
    for message in re.findall(r"`([^`]*)`", row)
    if len(message.split()) > 3
]


def texts():
    """All strings of the sources, formatted parts left open."""
    for path in [ROOT / "setup.py", *(ROOT / "rcgm").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                yield "".join(map(str, parts))


SOURCES = "\n".join(texts())


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_one_of_the_program(message):
    pieces = [re.escape(piece.strip()) for piece in message.split("...") if piece.strip()]
    assert re.search("[^\n]*".join(pieces), SOURCES)


def test_there_are_messages():
    assert len(MESSAGES) > 20
