"""What networks draw in their forwards (dropout, stochastic depth, noise): the same in all evaluations of a sample.

An objective subtracts evaluations of a network at neighbouring points and often divides by their short distance. If the
network drew other numbers in each of them, it would be another network each time, and the difference mostly that of two
networks. So every forward of a step begins at the state that torch's default generators had at the first one.
Published training loops do the same by saving and restoring the state. What a sample draws also depends on its place in
the batch and on the size of the batch: ``Engine`` keeps the rows of a forward those of the step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Draws", "Made"]

Snapshot = list[tuple[torch.Generator, Tensor]]


@dataclass
class Made:
    """What a forward drew.

    Args:
        any: True if it drew anything.
        end: the state of the generators after it. Forwards that drew equally many numbers end in equal states.
    """

    any: bool = False
    end: bytes = b""


class Draws:
    """Lets all forwards of a step begin at one state of torch's default generators, those of the CPU and the device.

    The host holds their states, so nothing here waits for a device. Generators that a network owns are not seen.
    """

    def __init__(self) -> None:
        self._start: Snapshot = []
        self._moved = False

    @contextlib.contextmanager
    def repeated(self, device: torch.device) -> Iterator[Made]:
        """Around a forward without gradient: afterwards the generators are as if it had drawn nothing."""
        before = _snapshot(device)
        with self._from_start(before) as made:
            yield made
        if self._moved:
            _restore(before)

    @contextlib.contextmanager
    def final(self, device: torch.device) -> Iterator[Made]:
        """Around the forward that is trained: the generators move on, so that the next step draws other numbers."""
        with self._from_start(_snapshot(device)) as made:
            yield made

    @contextlib.contextmanager
    def _from_start(self, before: Snapshot) -> Iterator[Made]:
        if self._moved:
            _restore(self._start)
        else:
            self._start = before
        made = Made()
        yield made
        made.end = _bytes([(generator, generator.get_state()) for generator, _ in before])
        made.any = made.end != _bytes(self._start)
        self._moved |= made.any


def _generators(device: torch.device) -> list[torch.Generator]:
    generators = [torch.default_generator]
    if device.type != "cpu":
        # by index; other backends have no generator whose state can be read without waiting
        own = getattr(torch.get_device_module(device), "default_generators", ())
        generators += own[device.index or 0 : (device.index or 0) + 1]
    return generators


def _snapshot(device: torch.device) -> Snapshot:
    return [(generator, generator.get_state()) for generator in _generators(device)]


def _restore(snapshot: Snapshot) -> None:
    for generator, state in snapshot:
        generator.set_state(state)


def _bytes(snapshot: Snapshot) -> bytes:
    return b"".join(state.numpy().tobytes() for _, state in snapshot)
