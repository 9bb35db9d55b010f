"""Losses, which stay on the device until they are read, and the check that they are finite."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

__all__ = ["LossWindow", "NonFiniteError", "all_finite", "finite_or_none"]


class NonFiniteError(RuntimeError):
    """Training has diverged. The message names the step and the last checkpoint from before."""


class LossWindow:
    """The losses of the steps since the last report.

    :meth:`add` does not wait for the device, :meth:`read` does, once for all steps.

    Args:
        values: losses of a window that was saved before it was reported.
        skip: leave out losses that are not finite, because their steps are skipped.
    """

    def __init__(self, values: Iterable[float] = (), *, skip: bool = False) -> None:
        self._values = list(values)
        self._skip = skip
        self._waiting: list[tuple[int, Tensor]] = []

    def add(self, step: int, loss: Tensor) -> None:
        """Note the loss, a tensor of no dimension, of a step."""
        self._waiting.append((step, loss))

    def read(self) -> list[float]:
        """All losses of the window.

        Raises:
            NonFiniteError: a loss is infinite or NaN, and is not to be left out; the message names its step.
        """
        if self._waiting:
            values = torch.stack([loss for _, loss in self._waiting]).tolist()
            for (step, _), value in zip(self._waiting, values, strict=True):
                if math.isfinite(value):
                    self._values.append(value)
                elif not self._skip:
                    raise NonFiniteError(f"the loss of step {step} is {value}")
            self._waiting.clear()
        return list(self._values)

    def clear(self) -> None:
        """Start a new window."""
        self._values.clear()
        self._waiting.clear()


def finite_or_none(value: float) -> float | None:
    """``value``, or None for an infinity or NaN, which JSON cannot hold."""
    return value if math.isfinite(value) else None


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no floating-point tensor, nor what lies here of a sharded one, holds an infinity or NaN.

    Waits for the device once.
    """
    here = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    checks = [torch.isfinite(tensor).all() for tensor in here if tensor.is_floating_point()]
    return not checks or bool(torch.stack(checks).all())
