"""The networks and points at which derivatives are compared with the truth."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.random_dit import RandomDiT
from rcgm.derivatives import Estimator, ForwardMode
from rcgm.engine import Engine
from rcgm.engine.queries import STUDENT, Derivative, Queries, Tangent


@dataclass(frozen=True)
class Problem:
    """A network at a batch of points; ``exact`` is the derivative there, and ``weight`` ``[B]`` that of the samples."""

    name: str
    network: nn.Module
    x: Tensor
    velocity: Tensor
    t: Tensor
    r: Tensor
    cond: Tensor | None
    exact: Tensor | None = None
    weight: Tensor | None = None

    def answered(
        self,
        network: Callable[..., Tensor],
        estimator: Estimator,
        dtype: torch.dtype,
        number: torch.dtype = torch.float32,
    ) -> Tensor:
        """The derivative as an estimator has it, with forwards in the format ``dtype`` (float32: without autocast)."""

        def queries() -> Queries[Any]:
            point = Derivative(self.x, self.t, self.r, Tangent(self.velocity))
            return (yield [point])

        (derivative,) = Engine({STUDENT: network}, self.cond, estimator=estimator, dtype=dtype).run(queries())
        # summed in float32, as the fused loss does
        return replace(derivative, terms=tuple(answer.to(number) for answer in derivative.terms)).value()

    def error(self, network: Callable[..., Tensor], estimator: Estimator, dtype: torch.dtype) -> float:
        """Its relative error."""
        weight = 1.0 if self.weight is None else self.weight.reshape(-1, *[1] * (self.x.ndim - 1))
        difference = self.answered(network, estimator, dtype).double() - self.exact
        return ((weight * difference).norm() / (weight * self.exact).norm()).item()


def with_exact(problem: Problem) -> Problem:
    """``problem`` with the derivative by forward-mode AD in float64."""
    double = replace(problem, **{name: getattr(problem, name).double() for name in ("x", "velocity", "t", "r")})
    network = copy.deepcopy(problem.network).double()
    return replace(problem, exact=double.answered(network, ForwardMode(), torch.float32, number=torch.float64))


def random_problem(name: str, seed: int = 1, **options: Any) -> Problem:
    """Eight points of a random network, ``t`` in [0.25, 0.75], ``r = 0.3 t``."""
    network = RandomDiT({"low": 1.0, "high": 10.0}[name], **options).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    data, noise = torch.randn(2, 8, 64, 16, generator=generator)
    t = 0.25 + 0.5 * torch.rand(8, generator=generator)
    mix = t[:, None, None]
    return Problem(f"random, {name}", network, mix * noise + (1 - mix) * data, noise - data, t, 0.3 * t, None)


def digits_problem(network: nn.Module, dataset: Any, *, everywhere: bool, seed: int = 1) -> Problem:
    """64 points of the digits: in the middle as above, or where training draws them."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(dataset), generator=generator)[:64].tolist()
    samples = [dataset[index] for index in chosen]
    data = torch.stack([image for image, _ in samples])
    labels = torch.tensor([int(label) for _, label in samples])
    noise = torch.randn(data.shape, generator=generator)
    drawn = torch.rand(2, 64, generator=generator)
    t = drawn[0] if everywhere else 0.25 + 0.5 * drawn[0]
    r = t * (drawn[1] if everywhere else 0.3)
    mix = t[:, None, None, None]
    name = "digits, all times" if everywhere else "digits"
    state = mix * noise + (1 - mix) * data
    return Problem(name, network, state, noise - data, t, r, labels, weight=t - r if everywhere else None)
