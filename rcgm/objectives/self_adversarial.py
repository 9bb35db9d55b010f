"""The self-adversarial term of TwinFlow: the network learns the velocity of its own samples, and leads away from it.

Time is extended to [-1, 1]: at ``-t`` the network learns the paths of its own one-step samples, the fakes, by flow
matching. Where its velocities of fakes and of real data differ at a one-step sample, that sample is unlike the data,
and the difference says in which direction (math.md section 9). One network, no discriminator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rcgm.checks import whole_number
from rcgm.engine.combination import PREDICTION, per_sample, term
from rcgm.engine.queries import STUDENT, Queries, Query, together
from rcgm.objectives.base import Objective
from rcgm.objectives.overflow import without
from rcgm.objectives.point import Point
from rcgm.objectives.residual import AnyResidual, Residual, Twofold
from rcgm.objectives.times import TimeSampler

UNLIKE_OWN = dict.fromkeys(("clip", "adaptive", "normalize", "normalize_scale"))
"""Options of an objective's loss that are off for fakes and the rectification. Weights by the size of the residual
would keep the gradient of ``delta`` as large as ever, or make it larger, while ``delta`` itself vanishes."""


@dataclass(frozen=True)
class SelfAdversarial:
    """``weight * rho(delta)``, ``delta = clamp(F(x_s, -s, -s) - F(x_s, s, s))``, with the gradient to ``F(x_1, 1, 0)``.

    ``x_s`` is on the path from the one-step sample ``x_1 - F(x_1, 1, 0)`` to new noise, ``s ~ U(0, 1)``. The loss is a
    regression on ``F - delta``, by the metric of the objective, without its weights by the size of the residual.

    Args:
        weight: of the term, relative to the mean loss of the other samples, ``>= 0``; 0.5 to 1 in the paper, for a
            residual that is divided by a gap of 0.01. One that is not (MeanFlow, TiM) holds samples in place less: take
            0.05 and less, and look at one-step samples as it trains.
        fraction: of the batch that are fakes, its first samples; and of those with ``t = 1, r = 0``, its last ones,
            which are rectified and learn what the objective teaches there, too. Above 0 and at most 1/2.
        clip: bound of ``delta``; None for none.
        warmup_steps: training steps over which the weight rises from 0, while the velocity of fakes is learned.
        image_free: take the model's own samples instead of the data, for distillation from a teacher.

    Raises:
        TypeError, ValueError: for a value out of range.
    """

    weight: float = 0.5
    fraction: float = 0.25
    clip: float | None = 1.0
    warmup_steps: int = 0
    image_free: bool = False

    def __post_init__(self) -> None:
        whole_number("self_adversarial warmup_steps", self.warmup_steps, 0)
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"self_adversarial weight must be a finite number >= 0, got {self.weight!r}")
        if not 0 < self.fraction <= 0.5:
            raise ValueError(f"self_adversarial fraction must be above 0 and at most 0.5, got {self.fraction!r}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"self_adversarial clip must be > 0 or None, got {self.clip!r}")

    def weight_at(self, step: int) -> float:
        """The weight at training step number ``step``."""
        return self.weight if step >= self.warmup_steps else self.weight * step / self.warmup_steps

    def samples(self, batch: int) -> int:
        """How many of ``batch`` samples are fakes, and how many are rectified.

        Raises:
            ValueError: for a batch too small to have any.
        """
        number = round(self.fraction * batch)
        if number == 0 or 2 * number > batch:
            raise ValueError(
                f"a batch must have samples for a fraction of {self.fraction:g} fakes and as many that are rectified, "
                f"got {batch} in all: make batch_size larger"
            )
        return number


@dataclass(frozen=True, kw_only=True)
class Adversarial(Objective):
    """Base of objectives to which the term can be added: those that learn intervals to any ``r``.

    The batch is dealt: its first samples are fakes, its last ones have ``t = 1`` and ``r = 0``, and those between them
    have the times of the objective. Fakes have flow matching alone: neither guidance nor a teacher, and no clip. Their
    ``sample_weight``, and that of the rectification, is the one at ``t = 1, r = 0``, of the step that made them. To the
    target forwards fakes are samples with ``r = t``, which are left out.

    Args:
        self_adversarial: the term; None for none. Two more waves at most: fakes, and in those of the objective the
            one-step samples and both velocities there.

    Raises:
        ValueError: for samples of the model instead of data without a teacher.
    """

    self_adversarial: SelfAdversarial | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.self_adversarial is not None and self.self_adversarial.image_free and self.supervision != "teacher":
            raise ValueError(
                f"supervision must be teacher with self_adversarial image_free, got {self.supervision!r}: the model's "
                "own samples alone teach nothing"
            )

    def drawn_times(self) -> TimeSampler:
        """``times`` for the samples in between, with fakes counted among those with ``r = t``."""
        if self.self_adversarial is None or self.times.interval == "equal":
            return self.times
        fraction = self.self_adversarial.fraction
        kept, own = 1 - 2 * fraction, self.times
        return replace(own, equal=fraction + kept * own.equal, zero=kept * own.zero, short=kept * own.short)

    def formulas(self, point: Point) -> Queries[tuple[Point, AnyResidual]]:
        if self.self_adversarial is None:
            return (yield from super().formulas(point))
        point = yield from self._dealt(point)
        own, delta = yield from together(self.residual(point), self._delta(point))
        return point, Twofold(without(own, ~point.fake), self._further(point, delta))

    def losses(self, prediction: Tensor, residual: AnyResidual, point: Point) -> Tensor:
        if not isinstance(residual, Twofold):
            return super().losses(prediction, residual, point)
        own, further = super().losses(prediction, residual.own, point), residual.further
        one_step = replace(point, t=torch.ones_like(point.t), r=torch.zeros_like(point.r))
        weight = self.weights(further, one_step).double() / len(prediction)
        options: dict[str, Any] = {**self.loss_options(), **UNLIKE_OWN}
        return own + further.losses(prediction, point.t, weight, **options)

    def _dealt(self, point: Point) -> Queries[Point]:
        """``point`` with fakes and samples at ``t = 1, r = 0``."""
        share, number, transport = point.whole, self.self_adversarial.samples(point.whole.total), self.transport
        row = torch.arange(len(point.t), device=point.t.device)
        fake, end = row < share.before(number), self._rectified(point)
        one, zero = torch.ones_like(point.t), torch.zeros_like(point.t)
        t, r = torch.where(end, one, point.t), torch.where(end, zero, point.r)
        alpha = transport.alpha(one)
        starts = [_times(alpha, point.normal())]
        asked = [Query(starts[0], one, zero, STUDENT, stop=share.leading(number))]
        if self.self_adversarial.image_free:
            starts.append(_times(alpha, point.normal()))
            asked.append(Query(starts[1], one, zero, STUDENT))
        answers = yield asked
        samples = [transport.move(start, answer, one, zero) for start, answer in zip(starts, answers, strict=True)]
        x = torch.where(per_sample(fake, point.x), samples[0], samples[1] if len(samples) > 1 else point.x)
        path = dict(zip(("x_t", "velocity", "regression_target"), transport.path(x, point.z, t), strict=True))
        # the rows that need no target forward: fakes, but none of those that are rectified
        equal = min(max(point.equal, share.left_out(number)), share.left_out(share.total - number))
        return replace(point, x=x, t=t, r=torch.where(fake, t, r), equal=equal, fake=fake, **path)

    def _rectified(self, point: Point) -> Tensor:
        """Which samples have ``t = 1`` and ``r = 0``, ``[B]``: the last ones of the batch."""
        share = point.whole
        row = torch.arange(len(point.t), device=point.t.device)
        return row >= share.before(share.total - self.self_adversarial.samples(share.total))

    def _delta(self, point: Point) -> Queries[Tensor]:
        """The velocity of fakes less that of data, on the way from the one-step samples to noise, ``[B, ...]``."""
        s, noise = point.uniform(), point.normal()
        start = point.whole.left_out(point.whole.total - self.self_adversarial.samples(point.whole.total))
        (prediction,) = yield [Query(point.x_t, point.t, point.r, STUDENT, start=start)]
        sample = self.transport.move(point.x_t, prediction, point.t, point.r)
        x_s = self.transport.points(sample, noise, s[None])[0]
        fake, real = yield [Query(x_s, -s, -s, STUDENT, start=start), Query(x_s, s, s, STUDENT, start=start)]
        delta, clip = fake.to(x_s.dtype) - real, self.self_adversarial.clip
        return delta if clip is None else delta.clamp(-clip, clip)

    def _further(self, point: Point, delta: Tensor) -> Residual:
        """Flow matching in the fakes, ``delta`` in the samples that are rectified; the others have no weight."""
        total = point.whole.total
        number = self.self_adversarial.samples(total)
        fake, rectified = (samples.to(point.t.dtype) for samples in (point.fake, self._rectified(point)))
        value = fake * (PREDICTION - term(point.regression_target)) + rectified * term(delta)
        weight = self.self_adversarial.weight_at(point.step)
        return Residual(value, weight=fake + weight * total / number * rectified)


def _times(scalars: Tensor, tensor: Tensor) -> Tensor:
    return per_sample(scalars, tensor).to(tensor.dtype) * tensor
