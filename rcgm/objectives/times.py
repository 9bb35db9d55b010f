"""The times ``0 <= r <= t <= 1`` of a training step: how they are drawn, and the time grid between them."""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rcgm.checks import one_of
from rcgm.distributed.shares import Share

DISTRIBUTIONS = ("uniform", "logit_normal", "beta", "arctan", "segments")
INTERVALS = ("hierarchical", "sorted", "independent", "zero", "equal", "dyadic")
SECOND_DRAWS = ("sorted", "independent")
SHORT = 0.05
"""Length of a short interval, as a part of the one that was drawn."""


@dataclass(frozen=True)
class Times:
    """Times of a batch, ``0 <= r <= t <= 1``; in the first ``equal`` samples ``r = t``.

    The host knows how many these are and where, so the target forwards leave them out without a synchronisation. The
    samples of a batch come in random order, so it has no meaning which of them are first.

    Args:
        t, r: float32 (or float64) ``[B]``.
        equal: number of leading samples with ``r = t``.
    """

    t: Tensor
    r: Tensor
    equal: int = 0

    def without_intervals(self) -> Times:
        """The same ``t``, with ``r = t`` in all samples."""
        return Times(self.t, self.t, len(self.t))

    def of(self, share: Share) -> Times:
        """The times of the rows that are here."""
        t = share.of(self.t)
        return Times(t, t if self.r is self.t else share.of(self.r), share.left_out(self.equal))


def given_times(value: Any, x: Tensor) -> Times:
    """The times that a caller gives for the samples ``x`` ``[B, ...]``: a ``Times``, or ``(t, r)``.

    Values are checked on a CPU only: on other devices the host would have to wait.

    Raises:
        TypeError, ValueError: for anything but two tensors ``[B]`` on the device of ``x`` with ``0 <= r <= t <= 1``, of
            which the first ``equal`` are alike.
    """
    if isinstance(value, (tuple, list)) and len(value) == 2:
        value = Times(*value)
    if not isinstance(value, Times):
        raise TypeError(f"times must be a Times or a pair (t, r) of tensors, got {type(value).__name__}")
    for name, time in (("t", value.t), ("r", value.r)):
        if not isinstance(time, Tensor) or not time.is_floating_point():
            got = time.dtype if isinstance(time, Tensor) else type(time).__name__
            raise TypeError(f"times must have floating-point tensors t and r, got {got} for {name}")
    t, r, equal = value.t, value.r, value.equal
    if not t.shape == r.shape == x.shape[:1]:
        got = f"{list(t.shape)} and {list(r.shape)}"
        raise ValueError(f"times must have t and r of the shape {list(x.shape[:1])}, got {got}")
    if not t.device == r.device == x.device:
        raise ValueError(f"times must be on the device of x, {x.device}, got {t.device} and {r.device}")
    if isinstance(equal, bool) or not isinstance(equal, int):
        raise TypeError(f"equal of times must be a whole number, got {equal!r}")
    if not 0 <= equal <= len(t):
        raise ValueError(f"equal of times must be from 0 to {len(t)}, got {equal}")
    if t.device.type == "cpu" and type(t) is type(r) is Tensor:  # a tracer's tensors have no values
        _check_values(t.detach(), r.detach(), equal)
    return value


def _check_values(t: Tensor, r: Tensor, equal: int) -> None:
    def first(wrong: Tensor) -> str:
        index = int(wrong.nonzero()[0])
        return f"t = {t[index].item()} and r = {r[index].item()} in sample {index}"

    # negated, so that NaN is wrong too
    wrong = ~((t >= 0) & (t <= 1) & (r >= 0) & (r <= 1))
    if wrong.any():
        raise ValueError(f"times must be from 0 (data) to 1 (noise) under every transport, got {first(wrong)}")
    wrong = r > t
    if wrong.any():
        raise ValueError(f"times must have r <= t, got {first(wrong)}: Times takes t, the later one, first")
    wrong = r[:equal] != t[:equal]
    if wrong.any():
        raise ValueError(f"times must have r = t in the first {equal} samples, as equal says, got {first(wrong)}")


@dataclass(frozen=True)
class TimeSampler:
    """Draws ``t`` from a distribution on [0, 1], and ``r <= t``.

    Args:
        distribution: of ``t``. ``"uniform"``; ``"logit_normal"``: ``sigmoid(N(a, b^2))`` (MeanFlow: -0.4, 1.0);
            ``"beta"``: ``Beta(a, b)`` (UCGM); ``"arctan"``: ``(2/pi) arctan(exp(N(a, b^2)))``, the angle of TrigFlow
            for noise of log-normal size (sCM: a = -1, b = 1.4; for data of a standard deviation other than 1, subtract
            its logarithm from a); ``"segments"``: one of the upper ends of ``segments`` equal parts of [0, 1] (DE-CM;
            the remaining end, 0, is the data, where there is nothing to learn).
        a, b: parameters of the distribution; uniform and segments ignore them.
        interval: ``"hierarchical"``: ``r ~ U[0, t]`` (RCGM, equation 8); ``"sorted"``: two draws, the larger is ``t``
            (MeanFlow); ``"independent"``: ``t`` keeps its distribution, and ``r`` is a second draw where that is
            smaller, else ``t``; ``"zero"``: ``r = 0`` (consistency models); ``"equal"``: ``r = t`` (flow matching);
            ``"dyadic"``: an interval of length ``2^-k``, ``k`` uniform from 0 to ``levels - 1``, that ends at a
            multiple of its length (Shortcut; the distribution of ``t`` is that of the samples with ``r = t``).
        equal: fraction of the samples of a whole step (over all processes and micro-batches) in which ``r = t``. If
            that is not a whole number of samples, it is rounded up or down at random, so that the mean over the steps
            is the fraction. With a batch of 1, ``equal`` is the probability.
        zero: fraction of the samples, after those, in which ``r = 0``; rounded in the same way.
        short: fraction of the samples, after those, whose interval is a twentieth as long (TwinFlow); rounded in the
            same way.
        segments: number of parts of ``"segments"``.
        levels: number of lengths of ``"dyadic"``; 8 goes down to 1/128, the paper's.
        shift: ``t`` becomes ``shift t/(1 + (shift - 1) t)``: more noise for large images.
        r_distribution, r_a, r_b: distribution of the second draw of ``"sorted"`` and ``"independent"``; None for that
            of the first.
        near: draws ``t`` from ``[1 - near, 1]`` (DE-CM's noise-to-noisy part), into which the distribution is scaled.

    Raises:
        ValueError: for an unknown name, a value out of range, or values that contradict one another.
    """

    distribution: str = "uniform"
    a: float = 0.0
    b: float = 1.0
    interval: str = "hierarchical"
    equal: float = 0.0
    zero: float = 0.0
    short: float = 0.0
    segments: int = 64
    levels: int = 8
    shift: float = 1.0
    near: float = 1.0
    r_distribution: str | None = None
    r_a: float = 0.0
    r_b: float = 1.0

    def __post_init__(self) -> None:
        _check_distribution("", self.distribution, self.a, self.b)
        if self.r_distribution is not None:
            _check_distribution("r_", self.r_distribution, self.r_a, self.r_b)
            if self.interval not in SECOND_DRAWS:
                raise ValueError(
                    f"r_distribution must be None with interval {self.interval}, which draws no r of its own, got "
                    f"{self.r_distribution!r}: choose interval {' or '.join(SECOND_DRAWS)}"
                )
        one_of("interval", self.interval, INTERVALS)
        for name in ("equal", "zero", "short"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a fraction from 0 to 1, got {getattr(self, name)!r}")
        if self.equal + self.zero + self.short > 1:
            got = f"{self.equal!r}, {self.zero!r} and {self.short!r}"
            raise ValueError(f"equal, zero and short must not exceed 1 together, got {got}")
        for name in ("segments", "levels"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")
        if not 0 < self.shift < math.inf:
            raise ValueError(f"shift must be a finite number > 0, got {self.shift!r}")
        if not 0 < self.near <= 1:
            raise ValueError(f"near must be above 0 and at most 1, got {self.near!r}")
        if self.zero and self.interval == "equal":
            raise ValueError(f"zero must be 0 with interval equal, in which r = t everywhere, got {self.zero!r}")
        if self.near < 1 and self.interval in (*SECOND_DRAWS, "dyadic"):
            raise ValueError(f"near must be 1 with interval {self.interval}, which draws r too, got {self.near!r}")

    def sample(self, batch: int, *, generator: torch.Generator | None, device: torch.device | str) -> Times:
        """Times for ``batch`` samples, drawn with ``generator`` (on ``device``; None for torch's default one)."""
        equal, bound, end = self._numbers(batch, generator, device)
        t, r = self._interval(batch, generator, device)
        if self.interval == "dyadic" and equal:
            t = torch.cat([self._draw(equal, generator, device), t[equal:]])
        if bound:
            r = torch.cat([t[:equal], torch.zeros_like(r[equal:bound]), r[bound:]])
        if end > bound:
            r = torch.cat([r[:bound], (t - SHORT * (t - r))[bound:end], r[end:]])
        return Times(t, r, equal)

    def _numbers(self, batch: int, generator: torch.Generator | None, device: torch.device | str) -> list[int]:
        """Ends of the samples with ``r = t``, of those with ``r = 0``, and of the short ones after them."""
        if self.interval == "equal":
            return [batch] * 3
        # to 1e-9, as 0.29 * 100 is less than 29
        ends = itertools.accumulate((self.equal, self.zero, self.short))
        exact = [round(float(fraction * batch), 9) for fraction in ends]
        if all(number.is_integer() for number in exact):
            return [int(number) for number in exact]
        # One random number for all bounds keeps their means. It is made of the state of the generator, which is on the
        # host for every device: for a number drawn on a GPU the host would have to wait.
        state = _generator_of(generator, device).get_state().numpy().tobytes()
        chance = int.from_bytes(hashlib.blake2b(state, digest_size=6).digest(), "little") / 2**48
        return [min(math.floor(number + chance), batch) for number in exact]

    def _interval(
        self, batch: int, generator: torch.Generator | None, device: torch.device | str
    ) -> tuple[Tensor, Tensor]:
        if self.interval == "dyadic":
            level = torch.randint(self.levels, (batch,), generator=generator, device=device)
            length = torch.exp2(-level.float())
            place = torch.floor(torch.rand(batch, generator=generator, device=device) / length)
            return (place + 1) * length, place * length
        t = self._draw(batch, generator, device)
        if self.interval == "zero":
            return t, torch.zeros_like(t)
        if self.interval == "hierarchical":
            return t, t * torch.rand(batch, generator=generator, device=device)
        if self.interval == "equal":
            return t, t
        second = self
        if self.r_distribution is not None:
            second = replace(self, distribution=self.r_distribution, a=self.r_a, b=self.r_b)
        other = second._draw(batch, generator, device)
        return (t if self.interval == "independent" else torch.maximum(t, other)), torch.minimum(t, other)

    def _draw(self, batch: int, generator: torch.Generator | None, device: torch.device | str) -> Tensor:
        t = self._unit(batch, generator, device)
        if self.shift != 1:
            t = self.shift * t / (self.shift * t + (1 - t))  # never above 1, as the usual denominator may round it
        return t if self.near == 1 else 1 - self.near * (1 - t)

    def _unit(self, batch: int, generator: torch.Generator | None, device: torch.device | str) -> Tensor:
        if self.distribution == "uniform":
            # rand gives 0 once in 2^24 draws; with an infinite derivative there (VP) the step would be lost
            return torch.rand(batch, generator=generator, device=device).clamp(min=2**-25)
        if self.distribution == "segments":
            end = 1 + torch.randint(self.segments, (batch,), generator=generator, device=device)
            return end.float() / self.segments
        if self.distribution in ("logit_normal", "arctan"):
            normal = self.a + self.b * torch.randn(batch, generator=generator, device=device)
            return (
                torch.sigmoid(normal)
                if self.distribution == "logit_normal"
                else torch.exp(normal).atan() * (2 / math.pi)
            )
        # X / (X + Y) with X ~ Gamma(a) and Y ~ Gamma(b): the sampler of torch that takes a generator
        shapes = torch.stack([torch.full((batch,), value, device=device) for value in (self.a, self.b)])
        first, second = torch._standard_gamma(shapes, generator=generator).unbind(0)
        return first / (first + second)


def _generator_of(generator: torch.Generator | None, device: torch.device | str) -> torch.Generator:
    if generator is not None:
        return generator
    device = torch.device(device)
    if device.type == "cpu":
        return torch.default_generator
    module = torch.get_device_module(device)
    return module.default_generators[module.current_device() if device.index is None else device.index]


def _check_distribution(prefix: str, name: str, a: float, b: float) -> None:
    one_of(f"{prefix}distribution", name, DISTRIBUTIONS)
    if not (math.isfinite(a) and math.isfinite(b)):
        raise ValueError(f"{prefix}a and {prefix}b must be finite, got {a!r} and {b!r}")
    if name in ("logit_normal", "arctan") and not b > 0:
        raise ValueError(f"{prefix}b, the standard deviation of {name}, must be > 0, got {b!r}")
    if name == "beta" and not (a > 0 and b > 0):
        raise ValueError(f"{prefix}a and {prefix}b of beta must be > 0, got {a!r} and {b!r}")


def knots(t: Tensor, r: Tensor, dt: float | Tensor, order: int) -> Tensor:
    """The time grid ``[N+2, B]`` from ``t`` down to ``r``, whose times are called knots (math.md section 2).

    They are ``t``, ``t_1 = max(t - dt, r)``, then evenly spaced down to ``r``. With ``order = 0`` they are ``t`` and
    ``r`` alone. ``dt`` is a number or ``[B]``.
    """
    if order == 0:
        return torch.stack([t, r])
    first = torch.maximum(t - dt, r)
    fraction = torch.arange(1, order + 1, dtype=t.dtype, device=t.device)[:, None] / order
    # r + (1 - fraction) (first - r), not first - fraction (first - r): it ends at r exactly, and never rises
    return torch.cat([t[None], first[None], r + (1 - fraction) * (first - r)])
