"""What the interpreter refuses."""

from __future__ import annotations


class KernelError(Exception):
    """A kernel did what a GPU would fault at, or what has no defined result."""


class UnknownInstructionError(Exception):
    """The interpreter lacks an instruction, or a form of one: ``args[0]``."""

    def __str__(self) -> str:
        return f"the PTX interpreter does not know {self.args[0]!r}: add it to tests/support/ptx"
