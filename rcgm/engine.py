"""The target engine: answers an objective's queries in as few batched forwards as their dependencies allow.

Queries that an objective yields together do not depend on one another. They are a wave: one forward for each network
they ask, without autograd state.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from rcgm import conditions
from rcgm.conditions import Condition

Network = Callable[[Tensor, Tensor, Tensor, Condition], Tensor]
Answer = TypeVar("Answer")
Queries = Generator[list["Query"], list[Tensor], Answer]


@dataclass(frozen=True)
class Query:
    """One evaluation of the average velocity over ``[r, t]`` at ``x``.

    Args:
        x: states, ``[B, ...]``.
        t, r: times, ``[B]``.
        network: ``"target"`` or ``"student"`` (without gradient).
        null: evaluate with the null condition.
        start: leading samples that are not evaluated; the answer is 0 there.
    """

    x: Tensor
    t: Tensor
    r: Tensor
    network: str = "target"
    null: bool = False
    start: int = 0


class Engine:
    """Evaluates waves of queries on named networks, and counts them.

    Args:
        networks: callables ``(x, t, r, cond) -> tensor`` by name.
        cond: the condition of the batch.
        null_cond: what stands in for it in queries that ask for the null condition.
    """

    def __init__(self, networks: dict[str, Network], cond: Condition = None, null_cond: Condition = None) -> None:
        self.networks = networks
        self.conditions = {False: cond, True: null_cond}
        self.waves = 0
        self.evaluations = 0

    def run(self, queries: Queries[Answer]) -> Answer:
        """Drive an objective's generator to its end and return what it returns."""
        answers: Any = None
        while True:
            try:
                wave = queries.send(answers)
            except StopIteration as finished:
                return finished.value
            answers = self.evaluate(wave)

    @torch.no_grad()
    def evaluate(self, wave: Sequence[Query]) -> list[Tensor]:
        """The answers to ``wave``, in its order."""
        answers: list[Tensor | None] = [None] * len(wave)
        asked = [index for index, query in enumerate(wave) if query.start < query.x.shape[0]]
        for index in set(range(len(wave))) - set(asked):
            answers[index] = torch.zeros_like(wave[index].x)
        for network in dict.fromkeys(wave[index].network for index in asked):
            members = [index for index in asked if wave[index].network == network]
            outputs = self._forward(network, [wave[index] for index in members])
            for index, output in zip(members, outputs, strict=True):
                answers[index] = output
            self.evaluations += len(members)
        self.waves += bool(asked)
        return answers

    def _forward(self, network: str, queries: list[Query]) -> list[Tensor]:
        def joined(tensors: list[Tensor]) -> Tensor:
            return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

        x = joined([query.x[query.start :] for query in queries])
        t = joined([query.t[query.start :] for query in queries])
        r = joined([query.r[query.start :] for query in queries])
        cond = conditions.concatenate(
            [conditions.rows_from(self.conditions[query.null], query.start) for query in queries]
        )
        output = predict(network, self.networks[network], x, t, r, cond)
        parts = output.split([query.x.shape[0] - query.start for query in queries])
        return [_after_zeros(part, query.start) for part, query in zip(parts, queries, strict=True)]


def predict(name: str, network: Network, x: Tensor, t: Tensor, r: Tensor, cond: Condition) -> Tensor:
    """The output of the network called ``name``.

    Raises:
        TypeError, ValueError: if it is not a tensor of the shape of ``x``.
    """
    output = network(x, t, r, cond)
    if not isinstance(output, Tensor):
        raise TypeError(f"the {name} network must return a tensor, got {type(output).__name__}")
    if output.shape != x.shape:
        raise ValueError(
            f"the {name} network must return the shape of its input, {list(x.shape)}, got {list(output.shape)}"
        )
    return output


def _after_zeros(part: Tensor, start: int) -> Tensor:
    return part if start == 0 else torch.cat([part.new_zeros((start, *part.shape[1:])), part])
