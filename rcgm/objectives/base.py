"""The base of all objectives: it draws a batch, evaluates the formulas, and makes the loss of them.

An objective is one file with one class. Its method ``residual`` is a generator: it yields waves of queries, is sent
their answers, and returns the residual, a linear combination (math.md section 3). The target forwards run before the
student's, so that they never use memory at the same time as its activations. So the prediction is not known yet when
the residual is made: the residual holds its coefficient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from rcgm.distributed.shares import Share
from rcgm.engine import conditions
from rcgm.engine.combination import Combination, term
from rcgm.engine.conditions import Condition
from rcgm.engine.formats import joined
from rcgm.engine.networks import Network
from rcgm.engine.queries import STUDENT, TARGET, TEACHER, Derivative, Queries, Query, Tangent, together
from rcgm.engine.waves import Engine
from rcgm.objectives.arguments import check_call
from rcgm.objectives.input_guidance import InputGuidance
from rcgm.objectives.output import ObjectiveOutput
from rcgm.objectives.overflow import Overflow, finite_samples, without
from rcgm.objectives.point import Point, points_of
from rcgm.objectives.residual import AnyResidual
from rcgm.objectives.settings import Settings
from rcgm.objectives.times import Times, TimeSampler, given_times
from rcgm.transports import Linear


@dataclass(frozen=True, kw_only=True)
class Objective(Settings, ABC):
    """Base of all objectives; what it is built with is in ``Settings``.

    Attributes:
        overflow: counts the samples whose target forwards were not finite.
        drawing: names of the networks that drew random numbers when they were last asked (see ``Engine``).
    """

    sampler: ClassVar[str] = "any_step"
    """The sampler for networks that this objective trains; a property where it depends on the settings."""

    overflow: Overflow = field(init=False, repr=False, compare=False, default_factory=Overflow)
    drawing: set[str] = field(init=False, repr=False, compare=False, default_factory=set)

    @abstractmethod
    def residual(self, point: Point) -> Queries[AnyResidual]:
        """The objective's formulas: yields waves of queries and returns the residual at ``point``."""

    def formulas(self, point: Point) -> Queries[tuple[Point, AnyResidual]]:
        """The residual and the point where it is: the one that was drawn, unless networks have a part in making it."""
        return point, (yield from self.residual(point))

    def drawn_times(self) -> TimeSampler:
        """What draws the times of a step: ``times``, unless some samples have others."""
        return self.times

    def parts(self, times: Times, step: int, draw: Callable[[TimeSampler], Times]) -> Sequence[Part]:
        """The parts that the loss of a step is the sum of: objectives with their times. Most objectives are one part.

        Args:
            times: drawn by ``self.times``, or given by the caller.
            step: number of the training step.
            draw: draws times for the same samples by another sampler.
        """
        return [(self, times)]

    def state(self) -> nn.ModuleDict:
        """Persistent and learned state, saved with the checkpoint; its parameters are trained with the student."""
        state = nn.ModuleDict()
        estimator = self.derivative.state()
        if estimator is not None:
            state["derivative"] = estimator
        if self.target_dtype == "float16":
            state["overflow"] = self.overflow
        return state

    def report(self) -> dict[str, Tensor]:
        """Numbers to log: tensors without dimensions, by name. Read only when a run reports, so they may wait."""
        watched = self.target_dtype == "float16" or self.overflow.watched
        overflow = {"target_overflows": self.overflow.samples} if watched else {}
        return {**self.derivative.report(), **overflow}

    def subtracted(self) -> set[str]:
        """Names of the networks whose predictions are subtracted from the student's over a short step.

        They must draw the same random numbers in their forwards (dropout) as the student. The student itself always
        does. A target network whose predictions are only regressed on may draw other numbers, or none.
        """
        return set()

    def regression_target(self, point: Point) -> Queries[Combination]:
        """What the network is to predict at ``(x_t, t, t)``: from data or teacher, guided. At most one wave.

        ``alpha_hat z + gamma_hat x``, the velocity ``v`` under the linear transport.
        """
        distilled = [Query(point.x_t, point.t, point.t, TEACHER)] if self.supervision == "teacher" else []
        guiding = [] if self.guidance is None else self.guidance.queries(point)
        answers = (yield distilled + guiding) if distilled or guiding else []
        plain = term(answers[0] if distilled else point.regression_target)
        if self.guidance is None:
            return plain
        return self.guidance.regression_target(point, plain, answers[len(distilled) :])

    def with_regression_target(self, point: Point) -> Queries[Point]:
        """``point`` with its :meth:`regression_target` and the velocity that belongs to it. At most one wave."""
        if self.supervision == "data" and self.guidance is None:
            return point
        target = (yield from self.regression_target(point)).value()
        velocity = self.transport.velocity(point.x_t, target, point.t)
        return replace(point, regression_target=target, velocity=velocity, on_path=False)

    def total_derivative(self, point: Point, network: str = STUDENT) -> Queries[Combination]:
        """The total derivative ``dF/dt`` along the path through ``point``, ``r`` fixed; 0 where ``r = t``. One wave.

        Args:
            point: where.
            network: whose derivative, ``"student"`` (without gradient) or ``"target"``.
        """
        curve = None
        if point.on_path and not isinstance(self.transport, Linear):

            def curve(offset: Tensor) -> Tensor:
                return self.transport.points(point.x, point.z, (point.t + offset)[None])[0]

        (answer,) = yield [
            Derivative(
                point.x_t, point.t, point.r, Tangent(point.velocity), network, start=point.equal, curve=curve,
                at_prediction=True, share=point.share,
            )
        ]  # fmt: skip
        return answer

    def losses(self, prediction: Tensor, residual: AnyResidual, point: Point) -> Tensor:
        """What each sample adds to the mean loss, ``[B]`` with gradient.

        Args:
            prediction: the student's, ``[B, ...]`` with gradient.
            residual: what :meth:`residual` returned.
            point: where.
        """
        batch, weight = prediction.shape[0], self.weights(residual, point)
        # float64: processes with unequal numbers of rows divide by different B; that rounding would show in their sum
        weight = torch.ones_like(point.t, dtype=torch.float64) if weight is None else weight.double()
        # The 1/B of the mean is part of the weight: the gradient that the kernel writes then needs no other factor.
        return residual.losses(prediction, point.t, weight / batch, **self.loss_options())

    def weights(self, residual: AnyResidual, point: Point) -> Tensor | None:
        """The weights of the samples, ``[B]``: those of the formulas times ``sample_weight``; None if all are 1.

        Raises:
            ValueError: if ``sample_weight`` gives something else than a tensor ``[B]``.
        """
        if self.sample_weight is None:
            return residual.weight
        weight = self.sample_weight(point.t, point.r)
        if not isinstance(weight, Tensor) or weight.shape != point.t.shape:
            got = list(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
            raise ValueError(f"sample_weight must give a tensor of the shape {list(point.t.shape)}, got {got}")
        return weight if residual.weight is None else torch.where(residual.weight != 0, weight * residual.weight, 0)

    def __call__(
        self,
        student: Network,
        x: Tensor,
        cond: Condition = None,
        *,
        target: Network | None = None,
        teacher: Network | None = None,
        null_cond: Condition = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        times: Times | tuple[Tensor, Tensor] | None = None,
        dropped: Tensor | None = None,
        step: int = 0,
        share: Share | None = None,
    ) -> ObjectiveOutput:
        """The loss of one training step.

        Args:
            student: the network that is trained, a callable ``(x, t, r, cond) -> tensor``.
            x: data, ``[B, ...]``, float32 (or float64).
            cond: condition: None, a tensor, or a nest of dicts, tuples and lists of tensors, with leading dimension B.
            target: network for the target forwards (the EMA); None for the student without gradient.
            teacher: frozen network for ``supervision="teacher"`` and for guidance by a teacher.
            null_cond: what a dropped condition becomes, in the structure of ``cond``, with leading dimension 1 or B.
            generator: source of all randomness, on the device of ``x``.
            noise: ``z``, of the shape of ``x``; None draws it.
            times: a ``Times``, or ``(t, r)``, each ``[B]``, with ``0 <= r <= t <= 1``; None draws them.
            dropped: bool ``[B]``, true where the condition is replaced by the null one; None draws it by
                ``label_dropout``.
            step: number of the training step, for warm-ups and update frequencies.
            share: which rows ``x`` holds of the batch of a step that is split over processes or micro-batches. Random
                numbers are then drawn for the whole batch, so all of them need a ``generator`` in the same state. None:
                ``x`` is the whole batch.

        Returns:
            The loss, ready for ``backward``, and what belongs to it.

        Raises:
            TypeError, ValueError: before any work, for an argument that does not fit; the message names it.
        """
        check_call(self, x, cond, null_cond, noise, dropped, generator, teacher, share)
        batch = x.shape[0]
        whole = Share(batch) if share is None else share

        def draw(sampler: TimeSampler) -> Times:
            return sampler.sample(whole.total, generator=generator, device=x.device).of(whole)

        parts = self.parts(draw(self.drawn_times()) if times is None else given_times(times, x), step, draw)
        z = whole.normal(x, generator) if noise is None else noise
        null_cond = conditions.expanded(null_cond, batch)
        if dropped is None and cond is not None and self.label_dropout:
            dropped = whole.of(torch.rand(whole.total, generator=generator, device=x.device)) < self.label_dropout
        undropped = cond
        if dropped is not None:
            cond = conditions.dropped(cond, null_cond, dropped)
        guidance = None
        if isinstance(self.guidance, InputGuidance):
            guidance = self.guidance.inputs(parts[0][1], whole, generator)
        engine = self._engine(student, target, teacher, cond, null_cond, undropped, guidance)
        with torch.no_grad():
            given = {"dropped": dropped, "step": step, "share": share, "guidance": guidance, "generator": generator}
            points = points_of(parts, x, z, **given)
            made = engine.run(together(*(part.formulas(point) for (part, _), point in zip(parts, points, strict=True))))
        points, residuals = zip(*made, strict=True)
        x_t, t, r = (joined([getattr(point, name) for point in points]) for name in ("x_t", "t", "r"))
        called_at = map(joined, zip(*(point.called_at for point in points), strict=True))
        alike = {STUDENT, *self.subtracted()}
        prediction = engine.prediction(x_t, *called_at, batches=len(parts), alike=alike)
        if engine.finite is not None:
            # samples whose own prediction is not finite are kept: a student that diverged must not go unnoticed
            kept = engine.finite | ~finite_samples(prediction.detach()).reshape(len(parts), batch).all(0)
            self.overflow.record(kept, whole)
            residuals = [without(residual, kept) for residual in residuals]
        losses = [
            part.losses(own, residual, point)
            for (part, _), own, residual, point in zip(parts, prediction.split(batch), residuals, points, strict=True)
        ]
        losses = joined(losses)
        return ObjectiveOutput(
            losses.sum(),
            prediction.detach(),
            t,
            r,
            engine.waves,
            engine.evaluations,
            batch * losses,
            engine.rows,
        )

    def _engine(
        self,
        student: Network,
        target: Network | None,
        teacher: Network | None,
        cond: Condition,
        null_cond: Condition,
        undropped: Condition,
        guidance: Tensor | None,
    ) -> Engine:
        networks = {STUDENT: student, TARGET: student if target is None else target}
        if teacher is not None:
            networks[TEACHER] = teacher
        dtype = None if self.target_dtype is None else getattr(torch, self.target_dtype)
        return Engine(
            networks,
            cond,
            null_cond,
            undropped=undropped,
            guidance=guidance,
            estimator=self.derivative,
            dtype=dtype,
            drawing=self.drawing,
        )


Part = tuple[Objective, Times]
"""A part of a loss: an objective and the times at which it is evaluated."""
