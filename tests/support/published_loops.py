"""The losses of the published training loops, written down from their formulas in plain float64 tensors.

Each is at the scale and with the options of its authors' program: whether it sums or averages over the elements of a
sample, its weights, its guidance, what it does with dropped labels. Times are ours, 0 the data and 1 the noise. Where a
program evaluates outside [0, 1] or beyond r, or divides by zero, it is not followed: the times of the batch stay clear
of that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BATCH, SHAPE, CLASSES = 12, (4, 32, 32), 5
NULL = CLASSES
EQUAL = 4
DROPPED = 2  # the last ones of the batch
DIFFERENCE = 0.005

Loss = Callable[["Problem"], Tensor]


class Pointwise(nn.Module):
    """A small smooth network ``(x, t, r, labels)`` of images ``[B, 4, H, W]`` whose positions see one another."""

    def __init__(self, seed: int, width: int = 16) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def matrix(rows: int, columns: int) -> nn.Parameter:
            drawn = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
            return nn.Parameter(drawn / columns**0.5)

        channels = SHAPE[0]
        self.first, self.pooled = matrix(width, channels), matrix(width, channels)
        self.times, self.labels = matrix(width, 4), matrix(width, CLASSES + 1)
        self.last = matrix(channels, width)

    def forward(self, x: Tensor, t: Tensor, r: Tensor, labels: Tensor) -> Tensor:
        features = torch.stack([t, r, torch.sin(3 * t), torch.cos(3 * r)], 1).to(x.dtype)
        whole = features @ self.times.T + x.mean((2, 3)) @ self.pooled.T + self.labels.T[labels]
        hidden = torch.tanh(torch.einsum("wc,bchv->bwhv", self.first, x) + whole[:, :, None, None])
        return torch.einsum("cw,bwhv->bchv", self.last, hidden)


@dataclass
class Problem:
    """A batch and the networks of a step: data, noise and times, the student, its average and a frozen teacher."""

    student: nn.Module
    target: nn.Module
    teacher: nn.Module
    x: Tensor
    z: Tensor
    labels: Tensor
    t: Tensor
    r: Tensor
    dropped: Tensor

    @property
    def kept(self) -> Tensor:
        """The labels as the student sees them."""
        return torch.where(self.dropped, NULL, self.labels)

    @property
    def nulls(self) -> Tensor:
        return torch.full_like(self.labels, NULL)


def problem(times: str, *, drop: bool, seed: int = 0) -> Problem:
    """A problem whose ``r`` is ``"below"`` ``t``, ``"mixed"`` (``t`` itself in the first EQUAL), ``"zero"`` or
    ``"equal"``."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(BATCH, generator=generator, dtype=torch.float64)

    x, z = (torch.randn(BATCH, *SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    t = uniform(0.1, 0.98)
    r = {"zero": torch.zeros_like(t), "equal": t}.get(times, (t - 0.06) * uniform(0, 1))
    if times == "mixed":
        r = torch.cat([t[:EQUAL], r[EQUAL:-2], torch.zeros(2, dtype=torch.float64)])
    dropped = torch.arange(BATCH) >= BATCH - (DROPPED if drop else 0)
    return Problem(*(Pointwise(number).double() for number in (1, 2, 3)), x, z, labels, t, r, dropped)


def column(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def mean(values: Tensor) -> Tensor:
    """Over the elements of each sample."""
    return values.flatten(1).mean(1)


def total(values: Tensor) -> Tensor:
    """Over the elements of each sample."""
    return values.flatten(1).sum(1)


def direction(prediction: Tensor, target: Tensor) -> Tensor:
    """One minus the cosine over the channels, averaged over the positions."""
    return mean(1 - torch.cosine_similarity(prediction, target, dim=1)[:, None])


# RCGM and TwinFlow


def rcgm(
    order: int,
    *,
    clip: float = 1.0,
    gap: float = 0.01,
    ratio: float | None = None,
    reweighted: float | None = None,
    tangent: bool = False,
) -> Loss:
    """The recursive target of order N: clamp of ``(F (t - r) - sum of N steps of the average)/gap - v``.

    Args:
        ratio: of guidance by the average: ``v + ratio (F_cond - F_null)``.
        reweighted: c of Barron's weight at alpha 1, ``m / (c sqrt(m/(c^2 + 1e-8) + 1))``, the root without gradient.
        tangent: TwinFlow's weight of the times.
    """

    def loss(p: Problem) -> Tensor:
        t, r = p.t, p.r
        x_t = column(t) * p.z + column(1 - t) * p.x
        prediction = p.student(x_t, t, r, p.kept)
        with torch.no_grad():
            v = p.z - p.x
            if ratio is not None:
                v = v + ratio * (p.target(x_t, t, t, p.kept) - p.target(x_t, t, t, p.nulls))
            start = torch.maximum(t - gap, r)
            state, moved = x_t - gap * v, torch.zeros_like(x_t)
            for i in range(order):
                now, after = (start + (r - start) * (j / order) for j in (i, i + 1))
                step = column(now - after) * p.target(state, now, after, p.kept)
                state, moved = state - step, moved + step
            short = t < r + gap
            ahead = torch.where(short, 1, (t - r) / gap)
            behind = torch.where(short, 0, 1 / gap)  # of nothing, in a short interval
            change = column(ahead) * prediction - column(behind) * moved - v
            target = prediction - change.clamp(-clip, clip)
        losses = mean((prediction - target) ** 2)
        if reweighted is not None:
            c = reweighted
            losses = losses / (losses.detach() / (c**2 + 1e-8) + 1).sqrt() / c
        if tangent:
            losses = losses * (torch.tan((1 - (t.abs() - r.abs())) * math.pi / 2.5) + 1)
        return losses.mean()

    return loss


# MeanFlow


def mean_flow(
    *,
    eps: float = 0.01,
    power: float = 1.0,
    omega: float | None = None,
    kappa: float = 0.0,
    upper: float = 1.0,
    difference: float | None = None,
    weight: Callable[[Tensor], Tensor] | None = None,
) -> Loss:
    """Sum over the elements of ``(u - sg(v - (t - r) du/dt))^2``, divided by itself plus ``eps`` to a power.

    Args:
        omega, kappa: of guidance by the student, where ``t`` is at most ``upper``, on samples that keep their label.
        difference: step of a central difference; None for forward-mode AD.
        weight: of the times.
    """

    def loss(p: Problem) -> Tensor:
        t, r = p.t, p.r
        x_t = column(t) * p.z + column(1 - t) * p.x
        with torch.no_grad():
            v = p.z - p.x
            if omega is not None:
                with_label, without = p.student(x_t, t, t, p.kept), p.student(x_t, t, t, p.nulls)
                guided = omega * v + kappa * with_label + (1 - omega - kappa) * without
                v = torch.where(column((t <= upper) & ~p.dropped), guided, v)

        def average(state: Tensor, time: Tensor) -> Tensor:
            return p.student(state, time, r, p.kept)

        if difference is None:
            _, derivative = torch.func.jvp(average, (x_t, t), (v, torch.ones_like(t)))
        else:
            ahead, behind = (average(x_t + e * v, t + e) for e in (difference, -difference))
            derivative = (ahead - behind) / (2 * difference)
        prediction = average(x_t, t)
        target = (v - column(t - r) * derivative).detach()
        losses = total((prediction - target) ** 2)
        losses = losses / (losses.detach() + eps) ** power
        return (losses if weight is None else losses * weight(t)).mean()

    return loss


# sCM


def scm(*, warm: float = 1.0, constant: float = 0.1, distilled: bool = False) -> Loss:
    """Sum over the elements of ``(F - sg(F) - g/(|g| + constant))^2`` under TrigFlow, in its angle."""

    def loss(p: Problem) -> Tensor:
        angle, zero = math.pi / 2 * p.t, torch.zeros_like(p.t)
        cos, sin = column(torch.cos(angle)), column(torch.sin(angle))
        x_t = cos * p.x + sin * p.z
        with torch.no_grad():
            velocity = p.teacher(x_t, p.t, p.t, p.kept) if distilled else cos * p.z - sin * p.x

        def predict(state: Tensor, angle: Tensor) -> Tensor:
            return p.student(state, 2 / math.pi * angle, zero, p.kept)

        own, derivative = torch.func.jvp(predict, (x_t, angle), (velocity, torch.ones_like(angle)))
        g = -(cos**2) * (own - velocity) - warm * cos * sin * (x_t + derivative)
        g = (g / (column(total(g**2).sqrt()) + constant)).detach()
        return total((predict(x_t, angle) - own.detach() - g) ** 2).mean()

    return loss


# Consistency models


def consistency(gap: float = 1 / 64) -> Loss:
    """``|f(x_t, t) - sg f(x_{t - gap}, t - gap)|^2 / gap``, ``f = x_t - t F``: the mean over the elements."""

    def loss(p: Problem) -> Tensor:
        t, zero = p.t, torch.zeros_like(p.t)

        def endpoint(network: nn.Module, time: Tensor) -> Tensor:
            state = column(time) * p.z + column(1 - time) * p.x
            return state - column(time) * network(state, time, zero, p.kept)

        with torch.no_grad():
            before = endpoint(p.student, t - gap)
        return (mean((endpoint(p.student, t) - before) ** 2) / gap).mean()

    return loss


def beta08(t: Tensor) -> Tensor:
    """FastGen's weight of that name: ``t sqrt(1 - t)``, with a mean of 1 over 1,000 times."""
    grid = torch.arange(1, 1001, dtype=torch.float64) / 1000
    return t * (1 - t).sqrt() * 1000 / (grid * (1 - grid).sqrt()).sum()
