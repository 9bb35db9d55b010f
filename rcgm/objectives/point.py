"""The point of a training step: state, times and path of each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rcgm.distributed.shares import Share
from rcgm.objectives.times import Times


@dataclass(frozen=True)
class Point:
    """``x_t`` on the path between data ``x`` and noise ``z``, for the interval [r, t].

    Args:
        x, z: data and noise, ``[B, ...]``.
        x_t: the state at time ``t``.
        velocity: direction of the path at ``x_t``.
        regression_target: what the network is to predict at ``(x_t, t, t)``: ``alpha_hat z + gamma_hat x``, the
            velocity itself under the linear transport.
        t, r: times, ``[B]``.
        equal: number of leading samples in which ``r = t``.
        dropped: ``[B]``, true where the condition was replaced by the null one; None where none was.
        step: number of the training step.
        on_path: True if the path is that of ``x`` and ``z``; false if a teacher or guidance has changed it.
        share: which rows of the batch of a step these samples are; None for all.
        guidance: scale and interval of guidance of each sample, ``[B, 3]``, where the network takes them as inputs.
        generator: of what an objective draws beyond times and noise.
        fake: ``[B]``, true for samples of the model itself, on whose paths the network is called at ``-t``.
    """

    x: Tensor
    z: Tensor
    x_t: Tensor
    velocity: Tensor
    regression_target: Tensor
    t: Tensor
    r: Tensor
    equal: int = 0
    dropped: Tensor | None = None
    step: int = 0
    on_path: bool = True
    share: Share | None = None
    guidance: Tensor | None = None
    generator: torch.Generator | None = None
    fake: Tensor | None = None

    @property
    def called_at(self) -> tuple[Tensor, Tensor]:
        """``t`` and ``r`` as the network is called at them: negative on the paths of fakes."""
        if self.fake is None:
            return self.t, self.r
        return torch.where(self.fake, -self.t, self.t), torch.where(self.fake, -self.r, self.r)

    @property
    def whole(self) -> Share:
        """``share``, or that of the whole batch."""
        return Share(len(self.t)) if self.share is None else self.share

    def normal(self) -> Tensor:
        """Noise of the shape of ``x``, drawn for the whole batch of the step."""
        return self.whole.normal(self.x, self.generator)

    def uniform(self) -> Tensor:
        """Numbers from [0, 1), ``[B]``, drawn for the whole batch of the step."""
        drawn = torch.rand(self.whole.total, generator=self.generator, device=self.t.device)
        return self.whole.of(drawn).to(self.t.dtype)


def points_of(parts: Sequence[tuple[Any, Times]], x: Tensor, z: Tensor, **given: Any) -> list[Point]:
    """The points of the ``parts`` of a loss on the paths of ``x`` and ``z``; ``given`` are further fields of all."""
    # Parts at the same times use the same tensors of the path, so that a query of both is evaluated once.
    paths: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}
    for part, times in parts:
        key = (id(part.transport), id(times.t))
        if key not in paths:
            paths[key] = part.transport.path(x, z, times.t)
    return [
        Point(x, z, *paths[id(part.transport), id(times.t)], times.t, times.r, times.equal, **given)
        for part, times in parts
    ]
