"""A network with dropout, the same network with given masks, and a published loop around it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, silu

from rcgm.objectives import Times

RATE = 0.2
WIDTH = 16
DEPTH = 2
DIM = 3
BATCH, EQUAL = 8, 3


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        change = silu(self.linear(hidden))
        return hidden + (dropout(change, RATE, self.training) if mask is None else mask * change)


class Dropping(nn.Module):
    """``(x, t, r, cond)`` with a dropout in each of its blocks, or, with ``cond["masks"]``, with those in their place.

    A condition rides along with its row wherever the row is evaluated. So with masks as conditions the draws of a
    sample are the same in all its evaluations, without a generator: what a network that draws is compared with.
    """

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.input = nn.Linear(DIM + 2, WIDTH)
        self.blocks = nn.ModuleList([Block() for _ in range(DEPTH)])
        self.output = nn.Linear(WIDTH, DIM)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4, generator=generator)
        self.to(dtype)
        self.forwards = 0

    def forward(self, x: Tensor, t: Tensor, r: Tensor, cond: dict | None = None) -> Tensor:
        self.forwards += 1
        given = {} if cond is None else cond
        masks = given.get("masks", [None] * DEPTH)
        dtype = self.input.weight.dtype
        point = torch.cat([x.to(dtype), t[:, None].to(dtype), r[:, None].to(dtype)], 1)
        hidden = self.input(point)
        if "shift" in given:
            hidden = hidden + given["shift"].to(dtype)
        for block, mask in zip(self.blocks, masks, strict=True):
            hidden = block(hidden, *([] if mask is None else [mask]))
        return self.output(hidden)


def masks(rows: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """What a forward of ``rows`` rows draws next; the generator stays as it is."""
    with torch.random.fork_rng():
        return [dropout(torch.ones(rows, WIDTH, dtype=dtype), RATE) for _ in range(DEPTH)]


def column(value: Tensor) -> Tensor:
    """Times ``[B]`` as a column in float64."""
    return value[:, None].double()


def from_one_state() -> Callable[..., Tensor]:
    """Calls networks, each time from the state that the generator is in now."""
    state = torch.get_rng_state()

    def evaluated(network: nn.Module, *point: Tensor) -> Tensor:
        torch.set_rng_state(state)
        return network(*point)

    return evaluated


def mean_flow(network: nn.Module, x: Tensor, z: Tensor, t: Tensor, r: Tensor, step: float) -> Tensor:
    """The loss of MeanFlow by a central difference, as a published loop has it: one state before each forward."""
    evaluated = from_one_state()
    velocity = z - x
    x_t = column(t) * z + column(1 - t) * x
    with torch.no_grad():
        ahead = evaluated(network, x_t + step * velocity, t + step, r)
        behind = evaluated(network, x_t - step * velocity, t - step, r)
        derivative = (ahead - behind) / (2 * step)
    prediction = evaluated(network, x_t, t, r)
    target = velocity - column(t - r) * derivative
    return (prediction - target).square().mean()


def recursive(student: nn.Module, target: nn.Module, x: Tensor, z: Tensor, t: Tensor, r: Tensor, dt: float) -> Tensor:
    """The loss of RCGM, order 2, rollout, as a published loop has it: one state before each forward."""
    evaluated = from_one_state()
    velocity = z - x
    x_t = column(t) * z + column(1 - t) * x
    first = t - dt
    middle = (first + r) / 2
    with torch.no_grad():
        x_first = x_t - dt * velocity
        one = evaluated(target, x_first, first, middle)
        two = evaluated(target, x_first - column(first - middle) * one, middle, r)
    prediction = evaluated(student, x_t, t, r)
    estimate = column(t - r) * prediction.detach() - column(first - middle) * one - column(middle - r) * two
    residual = (estimate / dt - velocity).clamp(-1, 1)
    return (prediction - (prediction - residual).detach()).square().mean()


def batch() -> tuple[Tensor, Tensor, Tensor, Times]:
    """Data, noise, a condition ``shift`` and times of ``BATCH`` samples, the first ``EQUAL`` with ``r = t``."""
    generator = torch.Generator().manual_seed(1)
    x, z = (torch.randn(BATCH, DIM, generator=generator, dtype=torch.float64) for _ in range(2))
    shift = torch.randn(BATCH, WIDTH, generator=generator, dtype=torch.float64)
    # multiples of 1/64, which float32 holds exactly, and their differences
    t = torch.tensor([20, 35, 50, 60, 25, 42, 31, 57]) / 64
    r = torch.tensor([20, 35, 50, 10, 5, 20, 8, 30]) / 64
    return x, z, shift, Times(t, r, EQUAL)
