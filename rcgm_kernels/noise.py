"""Noise that is drawn where it is used: the same on every device, whatever the launch and the split of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rcgm_kernels import checks
from rcgm_kernels.backends import AUTOMATIC, choose
from rcgm_kernels.layout import STORAGE_DTYPES
from rcgm_kernels.library import define, is_plain

LARGEST_SAMPLE = 2**34  # elements: four to each value of a 32-bit counter
LARGEST_OFFSET = 2**63
STREAMS = 2**32


@dataclass(frozen=True)
class Noise:
    """Standard normal numbers that a kernel draws instead of reading them.

    Element ``e`` of sample ``b`` is a function of the seed, the stream, ``offset + b`` and ``e`` alone: number
    ``e mod 4`` of those that Box-Muller in float32 makes of the four words of Philox4x32-10 (Salmon et al. 2011) with
    key ``seed`` and counter ``(e div 4, stream, low word of offset + b, high word of offset + b)``. So a batch that is
    split over processes has the noise of the whole batch if each passes the number of its first sample as ``offset``,
    and noise that is needed again is drawn again. The numbers are those of float32, in float64 arithmetic too.

    Args:
        seed: int64, of no dimension, on the device of the data: a kernel reads it there, so that nothing waits, and a
            captured graph draws anew where its owner changes it. Two seeds give unrelated noise.
        offset: number of the first sample, from 0 to 2^63 - 1.
        stream: which of the independent sequences of a seed, from 0 to 2^32 - 1.

    Raises:
        TypeError, ValueError: for an argument that does not fit; the message names it.
    """

    seed: Tensor
    offset: int = 0
    stream: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.seed, Tensor):
            raise TypeError(f"seed must be a tensor, got {type(self.seed).__name__}")
        if self.seed.dtype != torch.int64:
            raise TypeError(f"seed must be of dtype int64, got {checks.names([self.seed.dtype])}")
        if self.seed.ndim != 0:
            raise ValueError(f"seed must have no dimension, got the shape {list(self.seed.shape)}")
        checks.whole_number("offset", self.offset, LARGEST_OFFSET)
        checks.whole_number("stream", self.stream, STREAMS)

    @staticmethod
    def draw(
        generator: torch.Generator | None, device: torch.device | str, *, offset: int = 0, stream: int = 0
    ) -> Noise:
        """Noise of a seed drawn from ``generator``, which is of ``device`` or of the CPU; never waits for the device.

        All processes of a split batch need the same seed, so generators in the same state.

        Raises:
            ValueError: if the generator is of a device other than these.
        """
        device = torch.device(device)
        source = device if generator is None else generator.device
        if source.type not in (device.type, "cpu"):
            raise ValueError(f"generator must be of {device.type} or cpu, got {source.type}")
        information = torch.iinfo(torch.int64)
        seed = torch.randint(information.min, information.max, (), generator=generator, device=source)
        if source.type != device.type:
            seed = torch.full(
                (), int(seed), dtype=torch.int64, device=device
            )  # a number of the host, not a copy from it
        return Noise(seed, offset, stream)


def standard_normal(
    noise: Noise, shape: Sequence[int], *, dtype: torch.dtype = torch.float32, backend: str | None = None
) -> Tensor:
    """The numbers of ``noise`` as a tensor, for who needs them beside the points that a kernel made of them.

    Args:
        noise: where the numbers come from.
        shape: ``[B, ...]``; fewer than 2^34 elements a sample.
        dtype: float64, float32, float16 or bfloat16, to which the float32 numbers are rounded.
        backend: None chooses by device or by ``RCGM_BACKEND``.

    Returns:
        ``shape``, on the device of the seed, contiguous.

    Raises:
        TypeError, ValueError: before any work, for an argument that does not fit; the message names it.
    """
    check(noise)
    shape = tuple(shape)
    if not shape:
        raise ValueError("shape must have a batch dimension, got ()")
    check_size(noise, shape)
    if dtype not in STORAGE_DTYPES:
        raise TypeError(f"dtype must be one of {checks.names(STORAGE_DTYPES)}, got {dtype}")
    call = _standard_normal if is_plain(noise.seed) else torch.ops.rcgm_kernels.standard_normal
    return call(noise.seed, shape, noise.offset, noise.stream, dtype, backend or AUTOMATIC)


def check(noise: object) -> None:
    if not isinstance(noise, Noise):
        raise TypeError(f"noise must be a Noise, got {type(noise).__name__}")


def check_size(noise: Noise, shape: Sequence[int]) -> None:
    """Check that each element of ``shape`` has a counter of its own."""
    size = 1
    for extent in shape[1:]:
        size *= extent
    if size > LARGEST_SAMPLE:
        raise ValueError(f"noise can be drawn for samples of at most {LARGEST_SAMPLE} elements, got {size}")
    if noise.offset + shape[0] > LARGEST_OFFSET:
        raise ValueError(f"offset must leave room for {shape[0]} samples below 2^63, got {noise.offset}")


def _standard_normal(
    seed: Tensor, shape: Sequence[int], offset: int, stream: int, dtype: torch.dtype, backend: str
) -> Tensor:
    return choose(backend, seed.device).standard_normal(seed, tuple(shape), offset, stream, dtype)


define(
    "standard_normal(Tensor seed, SymInt[] shape, SymInt offset, SymInt stream, ScalarType dtype, str backend) "
    "-> Tensor",
    _standard_normal,
    fake=lambda seed, shape, offset, stream, dtype, backend: seed.new_empty(tuple(shape), dtype=dtype),
)
