"""The discriminator of a run, with its optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.adversarial import Discriminator, Features, Heads
from rcgm.config import ConfigError, DiscriminatorConfig, TrainConfig
from rcgm.data import DataInfo
from rcgm.distributed.shares import Share
from rcgm.engine.formats import autocast_to
from rcgm.seeds import Purpose, seed_of
from rcgm.training.optimizers import build_optimizer, learning_rate, set_learning_rate
from rcgm.training.teacher import Teacher
from rcgm.training.trial import batch_like
from rcgm.transports import Transport

__all__ = ["Adversary", "build_adversary", "build_discriminator"]


class Adversary:
    """Adds the gradient of the adversarial term to that of the student, and trains the discriminator.

    Both learn from the discriminator as it was before the step.

    Args:
        discriminator: its heads are trained, its teacher is not.
        config: says how.
        seed: of the run.
        steps: of the run.
        autocast: torch.float32 for none, or the dtype of the forwards of student and teacher.

    Attributes:
        optimizer: of the heads.
    """

    def __init__(
        self,
        discriminator: Discriminator,
        config: DiscriminatorConfig,
        *,
        seed: int,
        steps: int | None = None,
        autocast: torch.dtype = torch.float32,
    ) -> None:
        self.discriminator = discriminator
        self.optimizer = build_optimizer(config.optimizer, discriminator.heads)
        self._config = config
        self._seed = seed
        self._steps = steps
        self._autocast = autocast
        own = next(discriminator.heads.parameters())
        self._generator = torch.Generator(device=own.device)
        self._sums = own.new_zeros(3)

    @property
    def heads(self) -> nn.Module:
        """What is trained, and saved with a run."""
        return self.discriminator.heads

    def backward(self, step: int, student: Callable[..., Tensor], x: Tensor, cond: Any, share: Share) -> int:
        """The gradients of a micro-batch, added to those of student and heads.

        Args:
            step: number of the training step.
            student, x, cond, share: see :meth:`~rcgm.adversarial.Discriminator.losses`.

        Returns:
            The rows that went through a network.
        """
        if share.micro_batch == 0:
            self._sums = torch.zeros_like(self._sums)
        self._generator.manual_seed(seed_of(self._seed, Purpose.DISCRIMINATOR, step))
        with autocast_to(self._autocast, x.device):
            losses = self.discriminator.losses(student, x, cond, share, self._generator)
        if losses is None:
            return 0
        losses.generator.backward()
        losses.discriminator.backward()
        parts = (losses.generator, losses.discriminator, losses.told_apart)
        self._sums = self._sums + torch.stack([part.detach().to(self._sums.dtype) for part in parts])
        return losses.rows

    def finish(self, step: int, share: Share) -> Tensor:
        """Average gradients and losses over the processes, after the last micro-batch of step number ``step``.

        Returns:
            A number that is finite if the gradients of the heads are, of no dimension.
        """
        gradients = [parameter.grad for parameter in self.heads.parameters()]
        for summed in (*gradients, self._sums):
            share.add_up_(summed).div_(share.world_size)
        norm = nn.utils.get_total_norm(gradients)
        if self._config.optimizer.clip_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(self.heads.parameters(), self._config.optimizer.clip_grad_norm, norm)
        set_learning_rate(self.optimizer, learning_rate(self._config.optimizer, step, self._steps))
        return norm

    def report(self) -> dict[str, Tensor]:
        """Numbers of the last step to log: tensors without dimensions, by name."""
        return dict(zip(("generator_loss", "loss", "told_apart"), self._sums.unbind(), strict=True))


def build_adversary(
    config: TrainConfig, teacher: Teacher | None, objective: Any, info: DataInfo, device: torch.device
) -> Adversary | None:
    """The adversary that ``config`` asks for; None if it asks for none.

    Call it before the teacher is compiled and sharded. The heads begin with weights that depend on the seed of the run
    alone, and are the same in all processes.

    Raises:
        ConfigError: the teacher has no blocks.
    """
    settings = config.discriminator
    if settings is None or teacher is None:
        return None
    try:
        discriminator = build_discriminator(
            settings, teacher.network, objective.transport, info, device=device, seed=config.seed
        )
    except ValueError as error:
        raise ConfigError(f"discriminator: the teacher cannot tell features: {error}") from error
    return Adversary(
        discriminator, settings, seed=config.seed, steps=config.steps, autocast=getattr(torch, config.precision)
    )


def build_discriminator(
    config: DiscriminatorConfig,
    teacher: nn.Module,
    transport: Transport,
    info: DataInfo,
    *,
    device: torch.device,
    seed: int,
) -> Discriminator:
    """A discriminator of samples like those of ``info``, on features of ``teacher``.

    Raises:
        ValueError: the teacher has no blocks.
    """
    features = Features(teacher, config.features)
    widths = features.widths(*batch_like(info, teacher, device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, Purpose.DISCRIMINATOR_WEIGHTS))
        heads = Heads(widths, config.hidden).to(device)
    return Discriminator(features, heads, transport, config.settings())
