"""The table of instructions, which the modules of each kind of instruction fill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tests.support.ptx.faults import UnknownInstructionError
from tests.support.ptx.formats import is_signed
from tests.support.ptx.text import Instruction
from tests.support.ptx.wave import Lanes, Wave, joined

Step: TypeAlias = "Callable[[Wave, Lanes], None]"
Decoder: TypeAlias = "Callable[[Instruction], Step]"

DECODERS: dict[str, Decoder] = {}


def decodes(*names: str) -> Callable[[Decoder], Decoder]:
    """Enters the decorated function for instructions of these names."""

    def enter(decoder: Decoder) -> Decoder:
        for name in names:
            assert name not in DECODERS, name
            DECODERS[name] = decoder
        return decoder

    return enter


def decoded(instruction: Instruction) -> Step:
    if instruction.name not in DECODERS:
        raise UnknownInstructionError(instruction.text)
    try:
        return DECODERS[instruction.name](instruction)
    except (KeyError, IndexError, ValueError) as error:
        raise UnknownInstructionError(instruction.text) from error


def only(instruction: Instruction, *known: str) -> None:
    """Refuse modifiers, before the type, that are not known here."""
    if not set(instruction.modifiers[:-1]) <= set(known):
        raise UnknownInstructionError(instruction.text)


def computed(
    instruction: Instruction, function: Callable[..., NDArray], sources: Sequence[str], result: str | None = None
) -> Step:
    """The step that gives the first operand a function of the others, which are of the types ``sources``.

    ``function`` returns a new array of the type ``result``, which is that of the instruction if not given.
    """
    target, *operands = instruction.operands
    if len(operands) != len(sources):
        raise UnknownInstructionError(instruction.text)
    signed = is_signed(result or instruction.type)
    pairs = list(zip(operands, sources, strict=True))

    def step(wave: Wave, lanes: Lanes) -> None:
        read = [wave.read(operand, type_name, lanes) for operand, type_name in pairs]
        values = function(*(value for value, _ in read))
        wave.write(target, np.asarray(values), lanes, joined([missing for _, missing in read]), signed)

    return step
