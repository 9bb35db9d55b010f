"""Captions, and the scenes that they allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = [
    "COLOURS",
    "KINDS",
    "NUMERALS",
    "WORDS",
    "Cell",
    "Prompt",
    "Scene",
    "draw_prompt",
    "draw_scene",
    "held_out_prompt",
    "is_held_out",
]

NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLURALS = ("zeros", "ones", "twos", "threes", "fours", "fives", "sixes", "sevens", "eights", "nines")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
PLACES = ("left", "right")
WORDS = ("a", "an", "and", "of", "on", "the", "two", *NUMERALS[:2], *NUMERALS[3:], *PLURALS, *COLOURS, *PLACES)
"""All words of captions."""

ATTEMPTS = 50

Cell = tuple[int, int] | None
"""A digit and the number of its colour; None for an empty cell."""
Scene = tuple[Cell, Cell]
"""The left cell and the right one."""
AllowedCell = tuple[int | None, int | None] | None
"""As a cell, with None for any digit or any colour."""


@dataclass(frozen=True)
class Prompt:
    """A caption, its kind, and the scenes that it describes.

    A caption that names two things means both orders. Pictures show what it names first on the left, as captions of
    photographs name things from left to right: ``shown`` has the scenes that are drawn; None: all that are allowed.
    """

    kind: str
    caption: str
    allowed: tuple[tuple[AllowedCell, AllowedCell], ...]
    shown: tuple[tuple[AllowedCell, AllowedCell], ...] | None = None

    def describes(self, scene: Scene) -> bool:
        """Whether the scene is one of those that are allowed."""
        return any(
            all(_fits(cell, wanted) for cell, wanted in zip(scene, cells, strict=True)) for cells in self.allowed
        )


def is_held_out(cell: Cell, place: int) -> bool:
    """Whether no training picture has this digit in this colour at this place: a tenth of all combinations."""
    return cell is not None and (7 * cell[0] + 3 * cell[1] + 5 * place) % 10 == 0


def draw_prompt(kind: str, generator: torch.Generator) -> Prompt:
    """A prompt of this kind, one of :data:`KINDS`."""
    return KINDS[kind](generator)


def draw_scene(prompt: Prompt, generator: torch.Generator, *, held_out: bool = False) -> Scene | None:
    """A scene that a picture of ``prompt`` shows: what it leaves open is drawn.

    Args:
        held_out: also scenes with combinations that training pictures do not have. Without them, a prompt that
            describes no other has no scene: the result is None.
    """
    choices = prompt.shown or prompt.allowed
    for _ in range(ATTEMPTS):
        cells = choices[_below(len(choices), generator)]
        left, right = (_filled(cell, generator) for cell in cells)
        if held_out or not any(is_held_out(cell, place) for place, cell in enumerate((left, right))):
            return left, right
    return None


def held_out_prompt(generator: torch.Generator) -> Prompt:
    """A prompt of which every scene has a combination that training pictures do not have."""
    kind = ("position", "attribute binding")[_below(2, generator)]
    while True:
        prompt = draw_prompt(kind, generator)
        if any(is_held_out(cell, place) for place, cell in enumerate(prompt.allowed[0])):
            return prompt


def _single(generator: torch.Generator) -> Prompt:
    digit = _below(10, generator)
    return Prompt("single", _one(digit), _anywhere((digit, None)))


def _colours(generator: torch.Generator) -> Prompt:
    digit, colour = _digit_and_colour(generator)
    return Prompt("colours", f"a {COLOURS[colour]} {NUMERALS[digit]}", _anywhere((digit, colour)))


def _position(generator: torch.Generator) -> Prompt:
    digit, colour = _digit_and_colour(generator)
    place = _below(2, generator)
    caption = f"a {COLOURS[colour]} {NUMERALS[digit]} on the {PLACES[place]}"
    return Prompt("position", caption, (_anywhere((digit, colour))[place],))


def _counting(generator: torch.Generator) -> Prompt:
    digit, colour = _digit_and_colour(generator)
    caption = f"two {COLOURS[colour]} {PLURALS[digit]}"
    return Prompt("counting", caption, (((digit, colour), (digit, colour)),))


def _two_objects(generator: torch.Generator) -> Prompt:
    first = _below(10, generator)
    second = (first + 1 + _below(9, generator)) % 10
    in_order = ((first, None), (second, None))
    allowed = (in_order, in_order[::-1])
    return Prompt("two objects", f"{_one(first)} and {_one(second)}", allowed, shown=(in_order,))


def _binding(generator: torch.Generator) -> Prompt:
    left = _digit_and_colour(generator)
    right = _digit_and_colour(generator)
    caption = f"a {COLOURS[left[1]]} {NUMERALS[left[0]]} left of a {COLOURS[right[1]]} {NUMERALS[right[0]]}"
    return Prompt("attribute binding", caption, ((left, right),))


KINDS: dict[str, Callable[[torch.Generator], Prompt]] = {
    "single": _single,
    "two objects": _two_objects,
    "counting": _counting,
    "colours": _colours,
    "position": _position,
    "attribute binding": _binding,
}
"""Kinds of prompts, as GenEval reports them."""


def _one(digit: int) -> str:
    return f"{'an' if digit == 8 else 'a'} {NUMERALS[digit]}"


def _anywhere(cell: AllowedCell) -> tuple[tuple[AllowedCell, AllowedCell], ...]:
    return (cell, None), (None, cell)


def _fits(cell: Cell, wanted: AllowedCell) -> bool:
    if cell is None or wanted is None:
        return cell is wanted
    return all(want in (None, have) for have, want in zip(cell, wanted, strict=True))


def _filled(wanted: AllowedCell, generator: torch.Generator) -> Cell:
    if wanted is None:
        return None
    digit, colour = wanted
    return (
        _below(10, generator) if digit is None else digit,
        _below(len(COLOURS), generator) if colour is None else colour,
    )


def _digit_and_colour(generator: torch.Generator) -> tuple[int, int]:
    return _below(10, generator), _below(len(COLOURS), generator)


def _below(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
