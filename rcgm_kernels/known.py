"""Calls that passed their checks once are not checked again.

The checks of a public function depend on the kinds, shapes, strides, dtypes, devices and flags of its tensors and on
its options. They never depend on a value in memory: the order of knots and overlaps of memory are checked elsewhere, at
every call. So a call that passed stands for all calls that are equal in all of this. For small latents on a CPU the
checks would cost more than the kernel.

``find(tensors, options)`` gives what ``remember(tensors, options, known)`` was given for an equal call, or None. The
``tensors`` are a tuple of tensors, of None, and of lists of these. A call is never found if one of them is anything
else, of a subclass, or stands for other numbers than its memory holds, nor while something observes the call
(:func:`rcgm_kernels.library.is_observed`). Under a compiler do not ask at all: it cannot look into the extension.
"""

from __future__ import annotations

from typing import Protocol

from rcgm_kernels.library import OBSERVERS

try:
    from rcgm_kernels import _cpu
except ImportError:  # the backend says why
    _cpu = None


class KnownCalls(Protocol):
    """The calls of a function that passed their checks."""

    def find(self, tensors: tuple, options: tuple) -> object | None: ...

    def remember(self, tensors: tuple, options: tuple, known: object) -> None: ...


class _NoneKnown:
    """Without the extension every call is checked."""

    def find(self, tensors: tuple, options: tuple) -> None:
        return None

    def remember(self, tensors: tuple, options: tuple, known: object) -> None:
        pass


def known_calls(variable: str) -> KnownCalls:
    """None yet; they are told apart by ``variable`` of the environment as well."""
    return _NoneKnown() if _cpu is None else _cpu.KnownCalls(variable, OBSERVERS)
