"""The target network: an exponential moving average of the student."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.distributed import gather_nothing
from rcgm.roles import base_of
from rcgm_kernels import ema_update_

__all__ = ["AutocastNetwork", "Ema"]


class AutocastNetwork:
    """A network under autocast to ``dtype``, whatever autocast the caller uses; its output has the dtype of ``x``."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        self.network = network
        self.dtype = dtype

    def __call__(self, x: Tensor, t: Tensor, r: Tensor, cond: Any = None) -> Tensor:
        with torch.autocast(x.device.type, dtype=self.dtype):
            return self.network(x, t, r, cond).to(x.dtype)


class Ema:
    """Average of a student's parameters, ``ema <- d ema + (1 - d) student``, as a network of the same class.

    With warm-up, ``d = 0`` in the first step, and ``d <- d + (1 - d)(decay - d)/2`` after each step: an average of the
    random initial weights would be a poor target in the first 1/(1 - decay) steps (math.md, section 2).

    Call :meth:`step` once per optimizer step, before the target forwards of that step. Student and average may be
    sharded, both in the same way, after this is made; each process then averages its shards.

    Args:
        student: the network that is trained. Its parameters have to keep their identity.
        decay: 0 <= decay < 1. With 0 there is no average: ``network`` and ``target`` are the student itself.
        warmup: whether d grows from 0 or is ``decay`` from the first step.
        cast: bfloat16 or float16: ``target`` runs on a copy of its average in that format, written in the same pass
            over memory as the average itself.
        target_decay: ``target`` is a second average with this decay: some published programs sample from a slower
            average than the one they learn from. None: the first average. 0: the student.
        target_warmup: whether the second has a warm-up.

    Attributes:
        network: the average, parameters in float32 (float64 for a float64 student), without gradient: the network to
            sample from, in evaluation mode (``network.eval()``; :meth:`step` puts it back).
        target: the target network for an objective. It has the mode of the student, as in the published loops:
            objectives subtract the two, so dropout must be the same in both.
        current_decay: the d of the last step.
        second: the second average, or None.

    Raises:
        ValueError: decay out of range; a cast to anything but the two formats, or without an average.
    """

    def __init__(
        self,
        student: nn.Module,
        decay: float,
        *,
        warmup: bool = True,
        cast: torch.dtype | None = None,
        target_decay: float | None = None,
        target_warmup: bool = True,
    ) -> None:
        for name, value in (("decay", decay), ("target_decay", target_decay)):
            if value is not None and not 0.0 <= value < 1.0:
                raise ValueError(f"{name} must be in [0, 1), got {value}")
        if cast not in (None, torch.bfloat16, torch.float16):
            raise ValueError(f"cast must be torch.bfloat16, torch.float16 or None, got {cast}")
        if cast is not None and (decay if target_decay is None else target_decay) == 0.0:
            raise ValueError("cast must be left out with decay 0: the target network is the student itself then")
        self.second: Ema | None = None
        if target_decay is not None:
            self.second, cast = Ema(student, target_decay, warmup=target_warmup, cast=cast), None
        self.decay = decay
        self.current_decay = self._next_decay = 0.0 if warmup or decay == 0.0 else decay
        self.network: nn.Module = student
        self.target: Any = student
        self._student = student
        self._cast_network: nn.Module | None = None
        if decay > 0.0:
            self._make_copies(student, cast)
        if self.second is not None:
            self.target = self.second.target

    def _make_copies(self, student: nn.Module, cast: torch.dtype | None) -> None:
        self.network = _frozen_copy(student)
        for parameter in self.network.parameters():
            if parameter.dtype in (torch.float16, torch.bfloat16):
                parameter.data = parameter.data.float()
        self.target = self.network
        if cast is not None:
            self._cast_network = _frozen_copy(self.network)
            for parameter in self._cast_network.parameters():
                if parameter.is_floating_point():
                    parameter.data = parameter.data.to(cast)
            self.target = AutocastNetwork(self._cast_network, cast)

    @property
    def is_student(self) -> bool:
        """Whether there is no average, and the student itself is sampled from."""
        return self.network is self._student

    @torch.no_grad()
    def step(self) -> None:
        """Move the averages towards the student; buffers are copied, and so is the mode."""
        for copied in self.copies:
            gather_nothing(copied)
            if copied.training != self._student.training:
                copied.train(self._student.training)
        if self.second is not None:
            self.second.step()
        if self.is_student:
            return
        self.current_decay = self._next_decay
        self._next_decay = self._moved(self.current_decay)
        casts = None if self._cast_network is None else list(self._cast_network.parameters())
        ema_update_(list(self.network.parameters()), list(self._student.parameters()), self.current_decay, casts)
        self._copy_buffers(self._student)

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], current_decay: float) -> None:
        """Restore the average from a ``state_dict`` of ``network`` and the d it was saved with; not the second one.

        Raises:
            RuntimeError: names or shapes differ from the network's.
        """
        self.current_decay = current_decay
        if self.is_student:
            return
        self._next_decay = self._moved(current_decay)
        self.network.load_state_dict(tensors)
        if self._cast_network is not None:
            for copied, parameter in zip(self._cast_network.parameters(), self.network.parameters(), strict=True):
                copied.copy_(parameter)
            self._copy_buffers(self.network)

    @property
    def copies(self) -> list[nn.Module]:
        """The networks beside the student, the one of ``target`` last; none without an average."""
        second = [] if self.second is None else self.second.copies
        if self.is_student:
            return second
        return [self.network, *([] if self._cast_network is None else [self._cast_network]), *second]

    def release(self) -> None:
        """Free gathered parameters of sharded networks, after the target forwards of a step.

        The backward of the student frees those of the student, and of a base that the student shares.
        """
        for network in self.copies:
            if base_of(network) is not base_of(self._student):
                gather_nothing(network)

    def _moved(self, decay: float) -> float:
        return decay + (1.0 - decay) * (self.decay - decay) / 2.0

    def _copy_buffers(self, source: nn.Module) -> None:
        for network in (self.network, self._cast_network):
            if network is None or network is source:
                continue
            for copied, buffer in zip(network.buffers(), source.buffers(), strict=True):
                copied.copy_(buffer)


def _frozen_copy(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).requires_grad_(False)
