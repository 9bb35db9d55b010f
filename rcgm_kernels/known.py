"""Calls that passed their checks once are not checked again.

The checks of a public function depend on the kinds, shapes, strides, dtypes, devices and flags of its tensors and on
its options. They never depend on a value in memory: the order of knots and overlaps of memory are checked elsewhere, at
every call. So a call that passed stands for all calls that are equal in all of this. For small latents on a CPU the
checks would cost more than the kernel.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from rcgm_kernels.library import is_special

T = TypeVar("T")
_ABOUT = operator.attrgetter("shape", "dtype", "device", "layout", "requires_grad")


class KnownCalls(Generic[T]):
    """What is known of the calls of a function that passed their checks, by :meth:`key`."""

    MOST = 1024  # a training loop makes a few kinds of calls

    def __init__(self) -> None:
        self._known: dict[Hashable, T] = {}

    @staticmethod
    def key(tensors: Sequence[object], options: tuple[object, ...]) -> Hashable | None:
        """What the checks of a call depend on; None where they have to be made.

        They have to be made if something is no tensor, has no strides or stands for more than its memory holds. Do not
        ask where the call is observed (:func:`rcgm_kernels.library.is_observed`).
        """
        try:
            if is_special(tensors):
                return None
            return (
                tuple(map(type, tensors)),
                tuple(map(_ABOUT, tensors)),
                tuple(map(Tensor.stride, tensors)),
                torch.is_grad_enabled(),
                options,
                tuple(map(type, options)),  # True is equal to 1
            )
        except (AttributeError, TypeError, RuntimeError):  # what they raise for what is no dense tensor
            return None

    def find(self, key: Hashable | None) -> T | None:
        """What was remembered under this key."""
        try:
            return self._known.get(key)
        except TypeError:  # an option without a hash
            return None

    def remember(self, key: Hashable | None, known: T) -> None:
        """Remember a call, which has passed all checks, unless it has no key."""
        if key is None:
            return
        if len(self._known) >= self.MOST:
            self._known.clear()
        self._known[key] = known
