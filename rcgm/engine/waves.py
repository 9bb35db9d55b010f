"""The engine: answers an objective's queries in waves, each of them one batched forward of each network it asks.

The queries that an objective yields together do not depend on one another. They are a wave: one forward for each
network, without autograd state. Waves depend on one another, so their number is what a step waits for.

A network that draws random numbers in its forward (dropout) has to draw the same ones in all evaluations of a sample.
Otherwise their difference would be that of two networks: see ``rcgm.engine.draws``. Which numbers a sample gets depends
on the rows of the forward. So such a network is given each query of a wave by itself, with all rows of the step, also
those that the query leaves out. The state of the generators shows whether a network draws; looking at it takes
microseconds. The first time, the forward that showed it is made again.

Frozen networks run under inference mode, which saves the host the version counters of every tensor. Their answers are
inference tensors. Autograd cannot save those, and does not have to: the fused loss saves its own gradient alone. An
objective must not write into an answer. The student's forwards without gradient run under ``no_grad``. What a network
keeps from one forward to the next (gathered shards, weights cast by autocast, tables made on first use) would otherwise
be inference tensors too, and fail in the forward that is trained. Forward-mode AD does not work in inference mode
either.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rcgm.engine import conditions
from rcgm.engine.combination import Combination
from rcgm.engine.conditions import Condition
from rcgm.engine.draws import Draws, Made
from rcgm.engine.estimator import Estimator
from rcgm.engine.formats import joined, without_autocast
from rcgm.engine.networks import Network, explained_forward_mode, is_frozen, predict
from rcgm.engine.queries import STUDENT, TEACHER, Answer, Derivative, Queries, Query


class Engine:
    """Evaluates waves of queries on named networks. One engine serves one training step.

    Attributes:
        waves: how many were evaluated.
        evaluations: queries answered, those of a wave that ask the same counted once.
        rows: samples that went through a network; twice where forward-mode AD carried a tangent along. Of a network
            that draws random numbers, all rows of each query.
        finite: bool ``[B]``, on the device: samples whose forwards in float16 were all finite. None before any forward
            in float16.

    Args:
        networks: callables ``(x, t, r, cond) -> tensor`` by name.
        cond: the condition of the batch.
        null_cond: the condition of queries with ``null``, with leading dimension B.
        undropped: the condition before it was dropped in some samples, for queries with ``undropped``.
        guidance: scale and interval of guidance, ``[B, 3]``, for networks that take them as inputs; None where they do
            not. Queries with ``null`` are told of none. The teacher is told nothing.
        estimator: how derivatives are estimated; None where an objective asks for none.
        dtype: number format of the forwards, by autocast; float32 is without autocast. None keeps the caller's.
        drawing: names of the networks that drew random numbers when they were last asked. The engine keeps it up to
            date. With the same set in the next step, no forward is made again. None for a new set.
    """

    def __init__(
        self,
        networks: dict[str, Network],
        cond: Condition = None,
        null_cond: Condition = None,
        *,
        undropped: Condition = None,
        guidance: Tensor | None = None,
        estimator: Estimator | None = None,
        dtype: torch.dtype | None = None,
        drawing: set[str] | None = None,
    ) -> None:
        self.networks = networks
        self.cond, self.null_cond, self.undropped = cond, null_cond, undropped
        self.guidance = guidance
        self._no_guidance = (
            None if guidance is None else conditions.guidance_everywhere(torch.ones_like(guidance[:, 0]))
        )
        self.estimator = estimator
        self.dtype = dtype
        self.waves = 0
        self.evaluations = 0
        self.rows = 0
        self.finite: Tensor | None = None
        self._drawing = set() if drawing is None else drawing
        self._draws = Draws()
        self._made: dict[int, list[Made]] = {}  # by network: what the forwards drew whose answers are used

    def run(self, queries: Queries[Answer]) -> Answer:
        """Run an objective's generator to its end and return what it returns.

        Autocast is for the networks alone: the formulas between the waves run without it.

        Raises:
            ValueError: for a query of a network that is not there, or a derivative without an estimator.
        """
        answers: Any = None
        while True:
            try:
                with without_autocast():
                    wave = queries.send(answers)
            except StopIteration as finished:
                return finished.value
            answers = self.evaluate(wave)

    @torch.no_grad()
    def evaluate(self, wave: Sequence[Query | Derivative]) -> list[Tensor | Combination]:
        """The answers to ``wave``, in its order: a tensor ``[B, ...]`` for a query, a combination for a derivative."""
        with without_autocast():
            plans = [self._plan(item) for item in wave]
        values = iter(self._values([query for queries, _ in plans for query in queries]))
        with without_autocast():
            return [combine([next(values) for _ in queries]) for queries, combine in plans]

    def _plan(self, item: Query | Derivative) -> tuple[list[Query], Callable[[list[Tensor]], Any]]:
        if isinstance(item, Query):
            return [item], lambda answers: answers[0]
        if self.estimator is None:
            raise ValueError("the objective asks for a derivative: give the engine an estimator")
        return self.estimator.plan(item)

    def _values(self, queries: list[Query]) -> list[Tensor]:
        values: list[Any] = [None] * len(queries)
        groups: dict[tuple[int, bool], dict[tuple[Any, ...], list[int]]] = {}
        for index, query in enumerate(queries):
            if query.rows.start >= query.rows.stop:
                values[index] = torch.zeros_like(query.x)
                continue
            asked_with = (id(part) for part in self._condition(query))
            same = (id(query.x), id(query.t), id(query.r), *asked_with, query.start, query.stop, id(query.tangent))
            network = id(self._network(query.network))  # names may share a network
            groups.setdefault((network, query.tangent is not None), {}).setdefault(same, []).append(index)
        for asked in groups.values():
            outputs = self._outputs([queries[indices[0]] for indices in asked.values()])
            for indices, output in zip(asked.values(), outputs, strict=True):
                if self._format_of(self._network(queries[indices[0]].network)) == torch.float16:
                    self._note_finite(output)
                for index in indices:
                    values[index] = output
            self.evaluations += len(asked)
        self.waves += bool(groups)
        return values

    def prediction(
        self, x: Tensor, t: Tensor, r: Tensor, *, batches: int = 1, alike: Collection[str] = (STUDENT,)
    ) -> Tensor:
        """The student's prediction with gradient, ``[batches * B, ...]``; call it after all waves.

        Args:
            x: states of ``batches`` batches, one after the other, each with the condition of the batch.
            t, r: times, ``[batches * B]``.
            batches: their number.
            alike: names of the networks that must draw the same random numbers as the student draws here, because
                their predictions are subtracted from one another.

        Raises:
            ValueError: if one of them drew other numbers; the message says what to do.
        """
        student, cond = self._network(STUDENT), conditions.with_guidance(self.cond, self.guidance)
        # Batches that draw are predicted one by one, as the queries of each were.
        forwards = batches if any(made.any for of_network in self._made.values() for made in of_network) else 1
        cond = conditions.concatenate([cond] * (batches // forwards))
        outputs, mades = [], []
        for point in zip(x.chunk(forwards), t.chunk(forwards), r.chunk(forwards), strict=True):
            with self._draws.final(x.device) as made:
                outputs.append(predict(STUDENT, student, *point, cond))
            mades.append(made)
        self._check_draws(mades[-1], alike, x.device.type)
        return joined(outputs)

    def _check_draws(self, prediction: Made, alike: Collection[str], device: str) -> None:
        step = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        for name in alike:
            network = self.networks[name]
            made = self._made.get(id(network), [])
            if not made or not (prediction.any or any(one.any for one in made)):
                continue
            runs_in = self._format_of(network) or step
            if runs_in != step:
                raise ValueError(
                    f"the {name} network runs in {_short(runs_in)} and the step in {_short(step)}, and the network "
                    "draws random numbers in its forward (dropout or the like), which are others in another format: "
                    "run both in one format (target_dtype and ema.cast None), or let the network draw nothing"
                )
            if all(one.end == prediction.end for one in made):
                continue
            if network is self.networks[STUDENT]:
                raise ValueError(
                    "the student draws other random numbers in its forwards without gradient than in the one that is "
                    "trained (dropout of another attention kernel, say), and their difference would be one of two "
                    "networks: let it draw the same in both (derivative jvp has attention in torch's math: "
                    "attention sdpa_math), or nothing"
                )
            raise ValueError(
                f"the student and the {name} network do not draw the same random numbers in their forwards (dropout "
                "or the like), and the objective subtracts the two over a short step: put both in training mode "
                f"({name}.train()), or let them draw nothing"
            )

    def _condition(self, query: Query) -> tuple[Condition, Tensor | None]:
        """The condition of ``query``, and the guidance that the network is told."""
        guidance = self.guidance if query.guidance is None else query.guidance
        if query.network == TEACHER:
            guidance = None
        if query.null:
            return self.null_cond, None if guidance is None else self._no_guidance
        return self.undropped if query.undropped else self.cond, guidance

    def _network(self, name: str) -> Network:
        if name not in self.networks:
            raise ValueError(f"{name} must be given: the objective asks for evaluations of it")
        return self.networks[name]

    def _outputs(self, queries: list[Query]) -> list[Tensor]:
        name = queries[0].network
        made = self._made.setdefault(id(self._network(name)), [])
        aligned = len(queries) == 1 and queries[0].rows == slice(0, len(queries[0].t))
        if aligned or name not in self._drawing:
            outputs, drawn = self._forward(queries)
            if aligned or not drawn.any:
                made.append(drawn)
                return outputs
        outputs = []
        for query in queries:
            (whole,), drawn = self._forward([replace(query, start=0, stop=None)])
            outputs.append(_among_zeros(whole[query.rows], query))
            made.append(drawn)
        return outputs

    def _forward(self, queries: list[Query]) -> tuple[list[Tensor], Made]:
        name = queries[0].network
        network = self._network(name)
        x = joined([query.x[query.rows] for query in queries])
        t = joined([query.t[query.rows] for query in queries])
        r = joined([query.r[query.rows] for query in queries])
        cond = conditions.concatenate(
            [
                conditions.rows_of(conditions.with_guidance(*self._condition(query)), query.rows, len(query.t))
                for query in queries
            ]
        )
        tangents = [query.tangent for query in queries]
        self.rows += x.shape[0] * (1 if tangents[0] is None else 2)
        with self._draws.repeated(x.device) as made, self._format(x):
            if tangents[0] is None:
                with torch.inference_mode() if is_frozen(network) else contextlib.nullcontext():
                    output = predict(name, network, x, t, r, cond)
            else:
                directions = (
                    joined([query.tangent.x[query.rows] for query in queries]).to(x.dtype),
                    joined([torch.full_like(query.t[query.rows], query.tangent.t) for query in queries]),
                    joined([torch.full_like(query.r[query.rows], query.tangent.r) for query in queries]),
                )
                with sdpa_kernel(SDPBackend.MATH), explained_forward_mode(name):  # which has a forward-mode rule
                    _, output = torch.func.jvp(
                        lambda *point: predict(name, network, *point, cond), (x, t, r), directions
                    )
        (self._drawing.add if made.any else self._drawing.discard)(name)
        parts = output.split([query.rows.stop - query.rows.start for query in queries])
        return [_among_zeros(part, query) for part, query in zip(parts, queries, strict=True)], made

    def _format_of(self, network: Network) -> torch.dtype | None:
        """The format that the forwards of ``network`` are autocast to, by itself or by this; None: the caller's."""
        own = None if isinstance(network, nn.Module) else getattr(network, "dtype", None)
        return own or self.dtype

    def _note_finite(self, output: Tensor) -> None:
        finite = output.isfinite().flatten(1).all(1)
        self.finite = finite if self.finite is None else self.finite & finite

    def _format(self, x: Tensor) -> contextlib.AbstractContextManager[Any]:
        if self.dtype is None:
            return contextlib.nullcontext()
        # Without autocast's cache: it holds weights in one format, the caller's.
        return torch.autocast(x.device.type, self.dtype, enabled=self.dtype != torch.float32, cache_enabled=False)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _among_zeros(part: Tensor, query: Query) -> Tensor:
    """The answer to ``query`` made of that of its rows, 0 in the others."""
    before, after = query.rows.start, len(query.t) - query.rows.stop
    if not before and not after:
        return part
    zeros = [part.new_zeros((number, *part.shape[1:])) for number in (before, after)]
    return joined([piece for piece in (zeros[0], part, zeros[1]) if len(piece)])
