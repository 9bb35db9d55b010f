"""What all objectives share: the draw of a batch, the student's forward, and the fused loss of what the formulas say.

An objective is one file with one class. Its method ``residual`` is a generator: it yields lists of queries, is sent
their answers, and returns the terms and coefficients of the residual (math.md section 3). The target forwards run
before the student's, so that they never share memory with its activations; the residual names the student's prediction
by its coefficient alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rcgm import conditions
from rcgm.conditions import Condition
from rcgm.engine import Engine, Network, Queries, predict
from rcgm.times import Times, TimeSampler
from rcgm.transport import Linear, Transport
from rcgm_kernels import AdaptiveWeight, Metric, fused_residual_loss


@dataclass(frozen=True)
class Point:
    """Where a training step evaluates: ``x_t`` on the path between data ``x`` and noise ``z``, for the interval [r, t].

    ``velocity`` is that of the conditional path. In the first ``equal`` samples ``r = t``. ``dropped`` ``[B]`` is true
    where the condition was replaced by the null one; None where none was.
    """

    x: Tensor
    z: Tensor
    x_t: Tensor
    velocity: Tensor
    t: Tensor
    r: Tensor
    equal: int = 0
    dropped: Tensor | None = None


@dataclass(frozen=True)
class Residual:
    """``R = scale * clamp(pred_coeff * pred + sum_k coeffs[k] * terms[k])``; see ``fused_residual_loss``."""

    terms: list[Tensor]
    coeffs: Tensor
    pred_coeff: Tensor | float = 1.0
    scale: Tensor | None = None
    weight: Tensor | None = None


@dataclass(frozen=True)
class ObjectiveOutput:
    """What a call of an objective gives.

    Args:
        loss: scalar with gradient.
        prediction: the student's, without gradient, ``[B, ...]``.
        t, r: the times that were drawn, ``[B]``.
        waves: batched forwards without gradient that depended on one another.
        evaluations: queries answered.
    """

    loss: Tensor
    prediction: Tensor
    t: Tensor
    r: Tensor
    waves: int
    evaluations: int


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """Base of all objectives.

    Args:
        times: how ``t`` and ``r`` are drawn.
        clip: bound of the residual's clamp; None for none.
        metric: how the residual becomes a loss.
        adaptive: adaptive weight of the samples; None for none.
        label_dropout: probability with which a sample's condition is replaced by the null one.
    """

    times: TimeSampler = field(default_factory=TimeSampler)
    clip: float | None = None
    metric: Metric = field(default_factory=Metric)
    adaptive: AdaptiveWeight | None = None
    label_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be > 0 or None, got {self.clip!r}")
        if not 0 <= self.label_dropout <= 1:
            raise ValueError(f"label_dropout must be a probability from 0 to 1, got {self.label_dropout!r}")

    @property
    def transport(self) -> Transport:
        """The path between data and noise that the objective's formulas are written for."""
        return Linear()

    @abstractmethod
    def residual(self, point: Point) -> Queries[Residual]:
        """The objective's formulas: yields waves of queries, returns the residual."""

    def needs_null_condition(self) -> bool:
        """Whether a call with a condition needs ``null_cond`` too."""
        return self.label_dropout > 0

    def __call__(
        self,
        student: Network,
        x: Tensor,
        cond: Condition = None,
        *,
        target: Network | None = None,
        null_cond: Condition = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        times: Times | None = None,
    ) -> ObjectiveOutput:
        """One training step's loss, ready for ``backward``.

        Args:
            student: the network that is trained, any callable ``(x, t, r, cond) -> tensor``.
            x: data, ``[B, ...]``, float32 (float64 for tests).
            cond: condition: None, a tensor, or a nest of dicts, tuples and lists of tensors with leading dimension B.
            target: network for the target forwards (the EMA); None takes the student without gradient.
            null_cond: what a dropped condition becomes, in the structure of ``cond``, with leading dimension 1 or B.
            generator: source of all randomness, of the device of ``x``.
            noise: ``z``, the shape of ``x``; None draws it.
            times: None draws them.

        Raises:
            TypeError, ValueError: before any work, for an argument that does not fit; the message names it.
        """
        self._check(x, cond, null_cond, noise, times, generator)
        batch = x.shape[0]
        if times is None:
            times = self.times.sample(batch, generator=generator, device=x.device)
        z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype) if noise is None else noise
        null_cond = conditions.expanded(null_cond, batch)
        drop = None
        if cond is not None and self.label_dropout:
            drop = torch.rand(batch, generator=generator, device=x.device) < self.label_dropout
            cond = conditions.dropped(cond, null_cond, drop)
        with torch.no_grad():
            x_t, velocity = self.transport.point_and_velocity(x, z, times.t)
        point = Point(x, z, x_t, velocity, times.t, times.r, times.equal, drop)
        engine = Engine({"student": student, "target": student if target is None else target}, cond, null_cond)
        with torch.no_grad():
            residual = engine.run(self.residual(point))
        prediction = predict("student", student, x_t, times.t, times.r, cond)
        loss = fused_residual_loss(
            prediction,
            residual.terms,
            residual.coeffs,
            pred_coeff=residual.pred_coeff,
            scale=residual.scale,
            weight=residual.weight,
            clip=self.clip,
            metric=self.metric,
            adaptive=self.adaptive,
        )
        return ObjectiveOutput(loss, prediction.detach(), times.t, times.r, engine.waves, engine.evaluations)

    def _check(
        self,
        x: Tensor,
        cond: Condition,
        null_cond: Condition,
        noise: Tensor | None,
        times: Times | None,
        generator: torch.Generator | None,
    ) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor, got {type(x).__name__}")
        if not x.is_floating_point():
            raise TypeError(f"x must be floating point, got {x.dtype}: scale images to [-1, 1]")
        if x.ndim < 2 or x.shape[0] == 0:
            raise ValueError(f"x must have the shape [B, ...] with B > 0, got {list(x.shape)}")
        if noise is not None and noise.shape != x.shape:
            raise ValueError(f"noise must have the shape of x, {list(x.shape)}, got {list(noise.shape)}")
        if times is not None and not times.t.shape == times.r.shape == x.shape[:1]:
            got = f"{list(times.t.shape)} and {list(times.r.shape)}"
            raise ValueError(f"times must have t and r of the shape {list(x.shape[:1])}, got {got}")
        if generator is not None and generator.device.type != x.device.type:
            raise ValueError(f"generator must be of the device of x, {x.device.type}, got {generator.device.type}")
        conditions.check("cond", cond, x.shape[0])
        if null_cond is not None:
            conditions.check_null(cond, null_cond, x.shape[0])
        elif cond is not None and self.needs_null_condition():
            raise ValueError("null_cond must be given with label_dropout or guidance: what a dropped condition becomes")
