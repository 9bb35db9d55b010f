"""One optimizer step: what is computed. Schedules, logs and checkpoints are elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from rcgm.distributed import gather_nothing, synchronise_gradients
from rcgm.distributed.shares import Processes
from rcgm.engine import conditions
from rcgm.engine.conditions import Condition
from rcgm.engine.formats import autocast_to
from rcgm.roles import base_of
from rcgm.seeds import Purpose, seed_of
from rcgm.training.adversary import Adversary
from rcgm.training.ema import Ema
from rcgm.training.loss_by_time import LossByTime
from rcgm.training.nonfinite_guard import NonFiniteGuard

__all__ = ["StepResult", "TrainStep"]


@dataclass(frozen=True)
class StepResult:
    """Results of a step: tensors of no dimension on the device of the student, without gradient."""

    loss: Tensor
    grad_norm: Tensor | None
    rows: int = 0
    """Rows that went through a network in this process; a row counts three times with the backward of the student."""


class TrainStep:
    """EMA, forwards, backwards, clipping and the optimizer, in that order.

    The rows of the batch are dealt out to ``accumulate`` micro-batches (:class:`~rcgm.distributed.Share`). Each
    starts with a generator seeded from (seed, step), draws for the whole batch and keeps the draws of its rows. So the
    numbers of a step depend neither on the steps before it nor on the number of processes and micro-batches. Losses and
    gradients are means over the rows of all processes and micro-batches. Nothing waits for the device.

    Args:
        student: in training mode; takes gradients.
        objective: called as ``objective(student, x, cond, target=, teacher=, null_cond=, generator=, step=, share=)``;
            its answer has ``loss``, a mean over the rows of ``x``.
        optimizer: over the student's parameters, and those that the objective learns.
        ema: gives the target network.
        seed: of the run.
        accumulate: micro-batches per step; if it does not divide the batch, the first ones have one row more.
        autocast: torch.float32 for none, or the dtype of the forwards.
        clip_grad_norm: largest norm of the whole gradient of the student, or None.
        null_cond: what a dropped condition becomes, leading dimension 1; None without conditions.
        teacher: a frozen network ``(x, t, r, cond)``, or None.
        frozen: modules of the teacher, whose gathered parameters are freed with those of the target.
        processes: that share each step. Student, average and teacher are sharded over them. What the objective learns
            is not sharded; its gradients are averaged here.
        target: runs the forwards of ``ema.target``; None for ``ema.target`` itself.
        by_time: collects the losses of the samples, if the objective gives them; None collects nothing.
        guard: skips steps that are not finite; None makes every step.
        adversary: adds an adversarial term; None adds none.
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
        null_cond: Condition = None,
        teacher: Callable[..., Tensor] | None = None,
        frozen: Sequence[nn.Module] = (),
        processes: Processes | None = None,
        target: Callable[..., Tensor] | None = None,
        by_time: LossByTime | None = None,
        guard: NonFiniteGuard | None = None,
        adversary: Adversary | None = None,
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
        self._frozen = [network for network in frozen if base_of(network) is not base_of(student)]
        self._processes = Processes() if processes is None else processes
        self._target = ema.target if target is None else target
        self._parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        own = {id(parameter) for parameter in self._parameters}
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._learned = [parameter for parameter in trained if id(parameter) not in own]
        self._generator = torch.Generator(device=self._parameters[0].device)
        self._by_time = by_time
        self._guard = guard
        self._adversary = adversary

    def __call__(
        self, step: int, x: Tensor, cond: Condition, *, total: int | None = None, want_grad_norm: bool = False
    ) -> StepResult:
        """Train on the batch ``x [B, ...]`` as step number ``step``; ``cond`` is None, labels ``[B]``, or tensors
        ``[B, ...]`` by name.

        ``x`` holds this process's rows, as :class:`~rcgm.data.BatchStream` gives them, of a batch of ``total`` rows;
        None where it is the whole batch. ``grad_norm`` is that of the whole gradient, measured where it is needed for
        clipping or asked for, before clipping.

        Raises:
            ValueError: ``x`` does not hold this process's rows, or there are too few for all micro-batches.
        """
        total = len(x) if total is None else total
        micro_batches = self._accumulate
        shares = [self._processes.share(total, number, micro_batches) for number in range(micro_batches)]
        if sum(share.rows for share in shares) != len(x):
            raise ValueError(
                f"x must hold {sum(share.rows for share in shares)} rows of a batch of {total}, got {len(x)}"
            )
        self._ema.step()
        loss = torch.zeros((), device=x.device)
        evaluated = 0
        for share in shares:
            last = share.micro_batch == micro_batches - 1
            synchronise_gradients(self._student, last)
            self._generator.manual_seed(seed_of(self._seed, Purpose.TRAINING, step))
            own_x = x[share.micro_batch :: micro_batches].contiguous()
            own_cond = conditions.every(cond, share.micro_batch, micro_batches)
            with autocast_to(self._autocast, x.device):
                output = self._objective(
                    self._student,
                    own_x,
                    own_cond,
                    target=self._target,
                    teacher=self._teacher,
                    null_cond=self._null_cond,
                    generator=self._generator,
                    step=step,
                    share=share,
                )
            if last:
                self._release()
            # Gradients are averaged over the processes, also where these have different numbers of rows.
            own_loss = output.loss / (total / (share.rows * share.world_size))
            own_loss.backward()
            loss = loss + own_loss.detach()
            evaluated += self._observe(output)
            if self._adversary is not None:
                # after the backward of the objective, whose activations are gone
                evaluated += self._adversary.backward(step, self._student, own_x, own_cond, share)
                if last:
                    self._release()
        loss = shares[0].add_up_(loss) / shares[0].world_size
        for parameter in self._learned:
            if parameter.grad is not None:
                shares[0].add_up_(parameter.grad).div_(shares[0].world_size)
        norm = self._clipped(want_grad_norm)
        optimizers, sizes = [self._optimizer], [loss, norm]
        if self._adversary is not None:
            optimizers.append(self._adversary.optimizer)
            sizes.append(self._adversary.finish(step, shares[0]))
        if self._guard is None:
            for optimizer in optimizers:
                optimizer.step()
        else:
            learned = [parameter.grad for parameter in self._learned if parameter.grad is not None]
            self._guard.step(optimizers, *sizes, *([nn.utils.get_total_norm(learned)] if learned else []))
        for optimizer in optimizers:
            optimizer.zero_grad()
        return StepResult(loss, norm, evaluated)

    def _observe(self, output: Any) -> int:
        """Collect the losses by time; returns the rows that went through a network."""
        losses = getattr(output, "losses", None)
        if losses is None:
            return 0
        if self._by_time is not None:
            self._by_time.add(output.t, losses.detach())
        return 3 * len(losses) + output.rows

    def _release(self) -> None:
        self._ema.release()
        for network in self._frozen:
            gather_nothing(network)

    def _clipped(self, want_grad_norm: bool) -> Tensor | None:
        if not want_grad_norm and self._clip_grad_norm is None and self._guard is None:
            return None
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        if self._clip_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, self._clip_grad_norm, norm)
        return norm
