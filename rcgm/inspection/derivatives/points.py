"""The points at which derivatives are checked, and evaluations there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rcgm.engine import Engine
from rcgm.engine.combination import Combination, per_sample
from rcgm.engine.conditions import Condition
from rcgm.engine.estimator import Estimator
from rcgm.engine.networks import Network
from rcgm.engine.queries import STUDENT, TARGET, Derivative, Query, Tangent
from rcgm.objectives.base import Objective
from rcgm.objectives.point import Point
from rcgm.objectives.residual import AnyResidual, RecursiveResidual
from rcgm.transports import Linear, Transport

__all__ = ["NUMBER_FORMATS", "NumberFormat", "Points", "rms"]

MARGIN = 0.01
"""Part of [0, 1] at each end from which no t is drawn: some transports have infinite derivatives at the ends."""
LARGEST_R = 0.9
"""Of t. Closer to t the steps are cut to the room that is left, and t - r, the derivative's factor, is small."""

TENSORS = ("x", "z", "x_t", "velocity", "regression_target", "t", "r")


@dataclass(frozen=True)
class NumberFormat:
    """What the forwards are computed in.

    Args:
        name: a key of ``NUMBER_FORMATS``.
        dtype: of autocast; float32 for none.
        tf32: whether matrix products of float32 on a GPU may round their factors to TF32.
    """

    name: str
    dtype: torch.dtype
    tf32: bool = False

    @contextlib.contextmanager
    def set_up(self) -> Iterator[None]:
        """TF32 as this format has it, and back to what it was."""
        switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
        before = [switch.allow_tf32 for switch in switches]
        for switch in switches:
            switch.allow_tf32 = self.tf32
        try:
            yield
        finally:
            for switch, value in zip(switches, before, strict=True):
                switch.allow_tf32 = value


NUMBER_FORMATS = {
    "float32": NumberFormat("float32", torch.float32),
    "tf32": NumberFormat("tf32", torch.float32, tf32=True),
    "bfloat16": NumberFormat("bfloat16", torch.bfloat16),
    "float16": NumberFormat("float16", torch.float16),
}
"""Formats by name; ``float32`` is without TF32."""


@dataclass(frozen=True)
class Points:
    """Points on paths between data and noise, spread evenly over ranges of ``t``.

    In half of the samples of a range ``r = 0``, in the others it is uniform from 0 to ``0.9 t``.

    Args:
        point: states and times, in the number format of training.
        cond: the condition of the samples.
        range_of: number of the range of each sample, ``[B]``.
        ranges: number of ranges of [0, 1], of equal length.
        transport: of the path.
        batch_size: samples that are evaluated at a time.
    """

    point: Point
    cond: Condition
    range_of: Tensor
    ranges: int
    transport: Transport
    batch_size: int

    @classmethod
    def draw(
        cls, x: Tensor, cond: Condition, ranges: int, transport: Transport, batch_size: int, generator: torch.Generator
    ) -> Points:
        """Points for the data ``x`` ``[B, ...]``, ``B`` a multiple of ``2 ranges``; the generator is of the CPU."""
        place = torch.arange(len(x))
        drawn = torch.rand(2, len(x), generator=generator)
        t = MARGIN + (1 - 2 * MARGIN) * (place % ranges + drawn[0]) / ranges
        r = torch.where(place // ranges % 2 == 0, 0, LARGEST_R * drawn[1] * t)
        t, r = t.to(x.device), r.to(x.device)
        z = torch.randn(x.shape, generator=generator).to(x)
        point = Point(x, z, *transport.path(x, z, t), t, r)
        return cls(point, cond, (place % ranges).to(x.device), ranges, transport, batch_size)

    def double(self) -> Points:
        """The same points in float64."""
        converted = {name: getattr(self.point, name).double() for name in TENSORS}
        cond = pytree.tree_map_only(Tensor, lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, self.cond)
        return replace(self, point=replace(self.point, **converted), cond=cond)

    def rows(self, chosen: Tensor) -> Points:
        """The samples ``chosen``, by number or by a mask ``[B]``."""
        point = replace(self.point, **{name: getattr(self.point, name)[chosen] for name in TENSORS})
        cond = pytree.tree_map_only(Tensor, lambda leaf: leaf[chosen], self.cond)
        return replace(self, point=point, cond=cond, range_of=self.range_of[chosen])

    @property
    def to_data(self) -> Tensor:
        """True where ``r = 0``, ``[B]``."""
        return self.point.r == 0

    def derivative(self, network: Network, estimator: Estimator, dtype: torch.dtype) -> Tensor:
        """The derivative ``dF/dt``, ``r`` fixed, as ``estimator`` has it with forwards in ``dtype``; ``[B, ...]``.

        The answers are added up in float32, or float64 for points in float64, as the fused loss does.
        """

        def one(point: Point, cond: Condition) -> Tensor:
            engine = Engine({STUDENT: network}, cond, estimator=estimator, dtype=dtype)
            curve = None
            if not isinstance(self.transport, Linear):

                def curve(offset: Tensor) -> Tensor:
                    return self.transport.points(point.x, point.z, (point.t + offset)[None])[0]

            (answer,) = engine.evaluate([Derivative(point.x_t, point.t, point.r, Tangent(point.velocity), curve=curve)])
            return _summed(answer, point.x_t.dtype)

        return self._in_batches(one)

    def values(self, network: Network, offset: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The network at ``(x_t + offset v, t + offset, r)``, ``offset`` ``[B]``; None for ``(x_t, t, t)``."""

        def one(point: Point, cond: Condition, offset: Tensor | None = None) -> Tensor:
            engine = Engine({STUDENT: network}, cond, dtype=dtype)
            query = Query(point.x_t, point.t, point.t, STUDENT)
            if offset is not None:
                moved = point.x_t + per_sample(offset, point.x_t) * point.velocity
                query = Query(moved, point.t + offset, point.r, STUDENT)
            return engine.evaluate([query])[0].to(point.x_t.dtype)

        return self._in_batches(one, *([] if offset is None else [offset]))

    def residual(self, network: Network, objective: Objective, dtype: torch.dtype) -> Tensor:
        """The residual of ``objective`` before its clamp, with one network for all its evaluations; ``[B, ...]``."""

        def one(point: Point, cond: Condition) -> Tensor:
            engine = Engine({STUDENT: network, TARGET: network}, cond, estimator=objective.derivative, dtype=dtype)
            residual = engine.run(objective.residual(point))
            (prediction,) = engine.evaluate([Query(point.x_t, point.t, point.r, STUDENT)])
            return _value(residual, prediction.to(point.x_t.dtype), point.x_t.dtype)

        return self._in_batches(one)

    def _in_batches(self, evaluate: Callable[..., Tensor], *more: Tensor) -> Tensor:
        total, parts = len(self.point.t), []
        for start in range(0, total, self.batch_size):
            chosen = torch.arange(start, min(start + self.batch_size, total), device=self.point.t.device)
            part = self.rows(chosen)
            parts.append(evaluate(part.point, part.cond, *(tensor[chosen] for tensor in more)))
        return torch.cat(parts)


def rms(values: Tensor) -> Tensor:
    """Root mean square over the elements of each sample: ``[B, ...]`` to float64 ``[B]``."""
    return values.double().flatten(1).square().mean(1).sqrt()


def _summed(combination: Combination, dtype: torch.dtype) -> Tensor:
    return replace(combination, terms=tuple(term.to(dtype) for term in combination.terms)).value()


def _value(residual: AnyResidual, prediction: Tensor, dtype: torch.dtype) -> Tensor:
    value = residual.combination() if isinstance(residual, RecursiveResidual) else residual.value
    own = value.pred_coeff
    known = _summed(replace(value, pred_coeff=0.0), dtype)
    return known + (per_sample(own, prediction) if isinstance(own, Tensor) else own) * prediction
