"""What of the arguments of an operation its kernels may write, and which new tensors nobody has written yet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor

from tests.support.ptx.memory import Memory

# The positions of the arguments that an operation writes.
WRITTEN = {"residual_loss": (), "scale_gradient_": (0,), "interpolate": (), "advance_": (0,), "ema_update_": (0, 3)}


def tensors(value: object) -> Iterator[Tensor]:
    """All tensors in nested sequences."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from tensors(each)


@contextmanager
def watched(backend: ModuleType, memory: Memory) -> Iterator[None]:
    """Enter in ``memory`` what the operations of a backend are given, and what is made while they run.

    New tensors are full of NaN and, for the interpreter, without values. Memory is forgotten before each operation.
    """
    operations = {name: getattr(backend, name) for name in WRITTEN}
    makers = [(torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")]
    new = [getattr(owner, name) for owner, name in makers]
    running = []

    def fresh(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*arguments: object, **options: object) -> Tensor:
            tensor = make(*arguments, **options)
            if running:
                if tensor.is_floating_point():
                    tensor.fill_(math.nan)
                memory.add(tensor, "a new tensor", writable=True, fresh=True)
            return tensor

        return made

    def operation(name: str) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            memory.clear()
            for position in WRITTEN[name]:
                for tensor in tensors(arguments[position]):
                    memory.add(tensor, f"argument {position} of {name}", writable=True)
            for position, argument in enumerate(arguments):
                for tensor in tensors(argument):
                    memory.add(tensor, f"argument {position} of {name}", writable=False)
            running.append(name)
            try:
                return operations[name](*arguments)
            finally:
                running.pop()

        return call

    try:
        for (owner, name), make in zip(makers, new, strict=True):
            setattr(owner, name, fresh(make))
        for name in operations:
            setattr(backend, name, operation(name))
        yield
    finally:
        for (owner, name), make in zip(makers, new, strict=True):
            setattr(owner, name, make)
        for name, function in operations.items():
            setattr(backend, name, function)
