"""Samples of a network by number: a sample is the same in whatever batch, process and number of samples it is made."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.checks import whole_number
from rcgm.data import DataInfo
from rcgm.data.text.layout import MASKS
from rcgm.distributed.shares import Processes
from rcgm.engine import conditions
from rcgm.engine.conditions import Condition
from rcgm.engine.formats import autocast_to
from rcgm.runs.conditions import Captions, null_condition
from rcgm.sampling import SAMPLERS
from rcgm.seeds import Purpose, seeded_generator
from rcgm.transports import Linear, Transport

__all__ = ["Method", "RunSampler", "evaluation_mode", "method_of"]

CHUNK = 512
"""Largest number of samples that a process makes at a time."""
CAPTIONED_CHUNK = 32
"""The same of samples with captions: their text states and networks are larger."""


@dataclass(frozen=True)
class Method:
    """How a network is sampled: a key of ``SAMPLERS``, and the transport that it was trained on."""

    sampler: str = "any_step"
    transport: Transport = field(default_factory=Linear)


def method_of(objective: Any, sampler: str = "auto") -> Method:
    """How a network trained with ``objective`` is sampled; ``"auto"`` is the sampler that it is made for.

    An objective of one's own need not say: the default is jumps under the linear transport.
    """
    default = Method()
    made_for = getattr(objective, "sampler", default.sampler)
    return Method(made_for if sampler == "auto" else sampler, getattr(objective, "transport", default.transport))


class RunSampler:
    """Makes the samples of a network, which are numbered from 0.

    All noise of sample ``i`` depends on ``seed``, ``purpose`` and ``i`` alone, or on the key that ``captions`` have for
    it; the fresh noise that some samplers draw in every step included. It is drawn on the CPU. So samples of different
    numbers of steps start from the same noise, and a sample depends neither on how many are made nor on the device, the
    batch or the process that makes it, except for rounding.

    Args:
        network: takes ``(x, t, r, cond)``; its attribute ``num_classes`` tells whether it takes classes.
        info: of the data that it was trained on.
        method: which sampler, on which transport; None for jumps under the linear transport.
        guidance: scale of classifier-free guidance; 1 for none.
        autocast: dtype of the forwards; torch.float32 for no autocast.
        seed: of the noise.
        purpose: keeps the noise of different uses apart.
        classes: of the samples, in turn; None for all classes, or for a network without classes.
        captions: of the samples, for a network that takes text.
        size: height and width of the samples, in latents; None for those of the data.
        processes: that share the samples out in :meth:`draw`.

    Raises:
        ValueError: guidance that is not finite, or other than 1 for a network without conditions; a class that does
            not exist, or classes for a network without classes; no captions for a network that takes text, or captions
            for another; captions with other conditions than those of the data; a size without captions.
    """

    def __init__(
        self,
        network: nn.Module,
        info: DataInfo,
        *,
        method: Method | None = None,
        guidance: float = 1.0,
        autocast: torch.dtype = torch.float32,
        seed: int = 0,
        purpose: Purpose = Purpose.SAMPLING,
        classes: Sequence[int] | None = None,
        captions: Captions | None = None,
        size: tuple[int, int] | None = None,
        processes: Processes | None = None,
    ) -> None:
        first = next(network.parameters(), None)
        self._device = torch.device("cpu") if first is None else first.device
        num_classes = getattr(network, "num_classes", None)
        if not math.isfinite(guidance):
            raise ValueError(f"guidance must be a finite number, got {guidance}")
        if (captions is None) != (info.text is None):
            needed = "given for a network that takes text" if captions is None else "left out for data without captions"
            raise ValueError(f"captions must be {needed}")
        if guidance != 1.0 and num_classes is None and captions is None:
            raise ValueError(f"guidance must be 1 for a network without classes or captions, got {guidance}")
        if captions is not None:
            _check_widths(captions, info)
        self._network = network
        self._shape = info.shape if size is None else _checked_shape(info, size)
        self._classes = _checked_classes(classes, None if num_classes is None else info.num_classes)
        self._captions = captions
        null = None if captions is None else captions.null
        self._null_cond = None if guidance == 1.0 else null_condition(num_classes, self._device, null)
        self._guidance = guidance
        self._method = Method() if method is None else method
        self._autocast = autocast
        self._seed = seed
        self._purpose = purpose
        self._processes = Processes() if processes is None else processes

    def labels(self, rows: range) -> Tensor | None:
        """The classes of the samples of these numbers, int64 ``[len(rows)]`` on the CPU; None without classes."""
        if self._classes is None:
            return None
        return torch.tensor([self._classes[row % len(self._classes)] for row in rows])

    def texts(self, rows: range) -> list[str]:
        """The captions of the samples of these numbers; none without captions."""
        return [] if self._captions is None else self._captions.texts(rows)

    @torch.no_grad()
    def __call__(self, rows: range, *, steps: int) -> Tensor:
        """The samples of these numbers, float32 ``[len(rows), ...]``, on the device of the network."""
        keys = rows if self._captions is None else self._captions.noise_keys(rows)
        generators = [seeded_generator(self._seed, self._purpose, key) for key in keys]
        noise = torch.stack([torch.randn(self._shape, generator=generator) for generator in generators])
        condition = self._condition(rows)
        with evaluation_mode(self._network), autocast_to(self._autocast, self._device):
            samples = SAMPLERS[self._method.sampler](
                self._network,
                noise.to(self._device),
                condition,
                steps=steps,
                transport=self._method.transport,
                generator=generators,
                guidance=self._guidance,
                null_cond=self._null_cond,
            )
        return samples.float()

    def draw(
        self, count: int, *, steps: int, largest: int | None = None, on_chunk: Callable[[int], None] | None = None
    ) -> Tensor | None:
        """The samples of the numbers 0 to ``count - 1``, made by all processes together; each has to make this call.

        Args:
            count: at least 1.
            steps: of the sampler.
            largest: number of samples that a process makes at a time; None for 512, or 32 with captions.
            on_chunk: called with the number of samples that all processes have made since its last call.

        Returns:
            float32 ``[count, ...]`` on the CPU on rank 0; None on the other ranks.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        world_size = self._processes.world_size
        largest = largest or (CHUNK if self._captions is None else CAPTIONED_CHUNK)
        size = min(largest, -(-count // world_size))
        made = []
        for rows in self._processes.deal(count, size):
            made.append(self(rows, steps=steps).cpu())
            if on_chunk is not None:
                on_chunk(min(len(rows) * world_size, count))
        return self._processes.collect(made, count, size)

    def _condition(self, rows: range) -> Condition:
        found = self.labels(rows) if self._captions is None else self._captions.condition(rows)
        return conditions.moved(found, self._device)


@contextlib.contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """``network.eval()``, and back to what it was."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def _check_widths(captions: Captions, info: DataInfo) -> None:
    """Raise unless the conditions of ``captions`` have the names and widths of those of the data."""
    expected = {name: shape[-1] for name, shape in info.text.tensors.items() if name not in MASKS}
    given = {name: tensor.shape[-1] for name, tensor in captions.null.items() if name not in MASKS}
    if expected != given or captions.null.keys() != info.text.tensors.keys():
        raise ValueError(
            f"captions must have conditions of the widths {expected}, as the data of the run, got {given}: encode them "
            f"as the data were, with '{info.text.encoder or info.text.pipeline}'"
        )


def _checked_shape(info: DataInfo, size: tuple[int, int]) -> tuple[int, ...]:
    if info.text is None:
        raise ValueError(f"size must be left out for data without captions, got {size}")
    for side in size:
        whole_number("each side of size", side, 1)
    return (info.shape[0], *size)


def _checked_classes(classes: Sequence[int] | None, num_classes: int | None) -> list[int] | None:
    if num_classes is None:
        if classes is not None:
            raise ValueError(f"classes must not be given, got {list(classes)}: the network has no classes")
        return None
    chosen = list(range(num_classes) if classes is None else classes)
    wrong = [value for value in chosen if value not in range(num_classes)]
    if wrong or not chosen:
        raise ValueError(f"classes must be from 0 to {num_classes - 1}, got {wrong or chosen}")
    return chosen
