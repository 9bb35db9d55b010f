"""One optimizer step: what is computed, and nothing about when, where it is logged or how it is saved."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.training.ema import Ema
from rcgm.training.randomness import Purpose, mixed_seed

__all__ = ["StepResult", "TrainStep", "autocast_to"]


@dataclass(frozen=True)
class StepResult:
    """What a step says about itself: tensors of no dimension on the device of the student, without gradient."""

    loss: Tensor
    grad_norm: Tensor | None


def autocast_to(dtype: torch.dtype, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Autocast to ``dtype``; to float32 is to leave everything as it is."""
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


class TrainStep:
    """EMA, forwards, backwards, clipping and the optimizer, in that order.

    The batch is split into ``accumulate`` micro-batches. Each has a generator seeded from (seed, step, micro-step), so
    the numbers of a step do not depend on the steps before it. Nothing here waits for the device.

    Args:
        student: in training mode; takes gradients.
        objective: called as ``objective(student, x, cond, target=, teacher=, null_cond=, generator=, step=)``; its
            answer has ``loss``.
        optimizer: over the student's parameters, and those that the objective learns.
        ema: gives the target network.
        seed: of the run.
        accumulate: micro-batches a step; divides the batch.
        autocast: torch.float32 for none, or the dtype of the forwards.
        clip_grad_norm: largest norm of the whole gradient of the student, or None.
        null_cond: what a dropped condition becomes, leading dimension 1; None without conditions.
        teacher: a frozen network ``(x, t, r, cond)``, or None.
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Callable[..., Any],
        optimizer: torch.optim.Optimizer,
        ema: Ema,
        *,
        seed: int,
        accumulate: int = 1,
        autocast: torch.dtype = torch.float32,
        clip_grad_norm: float | None = None,
        null_cond: Tensor | None = None,
        teacher: Callable[..., Tensor] | None = None,
    ) -> None:
        self._student = student
        self._objective = objective
        self._optimizer = optimizer
        self._ema = ema
        self._seed = seed
        self._accumulate = accumulate
        self._autocast = autocast
        self._clip_grad_norm = clip_grad_norm
        self._null_cond = null_cond
        self._teacher = teacher
        self._parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        self._generator = torch.Generator(device=self._parameters[0].device)

    def __call__(self, step: int, x: Tensor, cond: Tensor | None, *, want_grad_norm: bool = False) -> StepResult:
        """Train on the batch ``x [B, ...]``, ``cond [B]`` as step number ``step``.

        ``grad_norm`` is measured where it is needed for clipping or asked for, before clipping.
        """
        device = x.device
        self._ema.step()
        losses = []
        conditions = [None] * self._accumulate if cond is None else cond.chunk(self._accumulate)
        for micro_step, (part, condition) in enumerate(zip(x.chunk(self._accumulate), conditions, strict=True)):
            self._generator.manual_seed(mixed_seed(self._seed, Purpose.TRAINING, step, micro_step))
            with autocast_to(self._autocast, device):
                output = self._objective(
                    self._student,
                    part,
                    condition,
                    target=self._ema.target,
                    teacher=self._teacher,
                    null_cond=self._null_cond,
                    generator=self._generator,
                    step=step,
                )
            (output.loss / self._accumulate).backward()
            losses.append(output.loss.detach())
        norm = None
        if want_grad_norm or self._clip_grad_norm is not None:
            gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
            norm = nn.utils.get_total_norm(gradients)
            if self._clip_grad_norm is not None:
                nn.utils.clip_grads_with_norm_(self._parameters, self._clip_grad_norm, norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return StepResult(torch.stack(losses).mean(), norm)
