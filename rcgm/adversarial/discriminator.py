"""The discriminator of latents: which samples it sees, and both losses of a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.adversarial.features import Features
from rcgm.adversarial.heads import Heads
from rcgm.adversarial.losses import LOSSES
from rcgm.checks import non_negative_float, one_of, positive_float
from rcgm.distributed.shares import Share
from rcgm.engine import conditions
from rcgm.engine.combination import per_sample
from rcgm.transports import Transport
from rcgm_kernels import interpolate

__all__ = ["AdversarialLosses", "Discriminator", "DiscriminatorSettings"]


@dataclass(frozen=True, kw_only=True)
class DiscriminatorSettings:
    """How a discriminator is trained, and what the student learns from it.

    Args:
        weight: of the generator's loss, ``>= 0``.
        loss: a key of ``LOSSES``.
        fraction: of the batch, its first samples, that the term is taken on; above 0 and at most 1.
        starts: times at which the student's one-step samples begin, each equally often; above 0 and at most 1.
        noise_mean, noise_std: of the logit of the times ``s`` at which samples are told apart. They are noised up to
            there, with the same noise for a fake and a real sample.
        penalty: of the discriminator's slope at fakes and real samples (R1 and R2), ``>= 0``, from finite differences.
        penalty_step: deviation of the noise that these take.

    Raises:
        TypeError, ValueError: for a value out of range.
    """

    weight: float = 0.1
    loss: str = "hinge"
    fraction: float = 0.5
    starts: tuple[float, ...] = (1.0,)
    noise_mean: float = 0.0
    noise_std: float = 1.0
    penalty: float = 0.0
    penalty_step: float = 0.01

    def __post_init__(self) -> None:
        non_negative_float("weight", self.weight)
        one_of("loss", self.loss, tuple(LOSSES))
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1, got {self.fraction!r}")
        if not self.starts or not all(0 < start <= 1 for start in self.starts):
            raise ValueError(f"starts must be times above 0 and at most 1, got {self.starts!r}")
        if not math.isfinite(self.noise_mean):
            raise ValueError(f"noise_mean must be a finite number, got {self.noise_mean!r}")
        non_negative_float("noise_std", self.noise_std)
        non_negative_float("penalty", self.penalty)
        positive_float("penalty_step", self.penalty_step)


@dataclass(frozen=True)
class AdversarialLosses:
    """What a micro-batch of a process adds to the two losses; gradients of both are to be averaged over processes.

    Attributes:
        generator: times its weight, with gradient to the student alone.
        discriminator: with gradient to the heads alone.
        told_apart: share of the pairs whose real sample has the higher logits, as what this process adds to it.
        rows: that went through a network, those with a backward counted three times.
    """

    generator: Tensor
    discriminator: Tensor
    told_apart: Tensor
    rows: int


class Discriminator:
    """Tells the student's one-step samples from data, by features of the frozen teacher; the student learns to deceive.

    A fake is the student's step from ``t``, one of the ``starts``, to 0. Fakes and real samples are noised to a time
    ``s``, where the teacher knows what is likely, and heads on features of its blocks tell them apart. Nothing has to
    be decoded. The student learns through the teacher, and so through attention of any kind: no second derivative is
    taken, the penalty included.

    Args:
        teacher: frozen, ``(x, t, r, cond)``; see :class:`~rcgm.adversarial.features.Features`.
        heads: on these features.
        transport: of student and teacher.
        settings: see there.

    Source: LADD (Sauer et al. 2024); the pairing loss of R3GAN (Huang et al. 2024); R1 by finite differences as in APT
    (Lin et al. 2025).
    """

    def __init__(self, teacher: Features, heads: Heads, transport: Transport, settings: DiscriminatorSettings) -> None:
        self.heads = heads
        self.settings = settings
        self._teacher = teacher
        self._transport = transport
        self._loss = LOSSES[settings.loss]

    def losses(
        self, student: Callable[..., Tensor], x: Tensor, cond: Any, share: Share, generator: torch.Generator
    ) -> AdversarialLosses | None:
        """Both losses; None if the term is on no sample of this micro-batch.

        Args:
            student: ``(x, t, r, cond)``.
            x: data of this share, ``[B, ...]``.
            cond: their condition.
            share: which rows of the batch of the step ``x`` holds.
            generator: on the device of ``x``, in the same state in all shares.
        """
        settings, total = self.settings, share.total
        number = max(round(settings.fraction * total), 1)
        rows = share.leading(number)
        if rows == 0:
            return None
        options = {"generator": generator, "device": x.device}
        z, noise = (share.normal(x, generator)[:rows] for _ in range(2))
        t = share.of(self._starts(torch.randint(len(settings.starts), (total,), **options)))[:rows]
        s = share.of(torch.randn(total, **options))[:rows]
        s = torch.sigmoid(settings.noise_mean + settings.noise_std * s)
        step = share.normal(x, generator)[:rows] if settings.penalty else None
        counted = torch.arange(rows, device=x.device) < share.before(number)
        cond = conditions.rows_of(cond, slice(0, rows), len(x))
        x = torch.where(per_sample(counted, x), x[:rows], 0)  # a row that is not counted may not be finite

        fake = self._noised(self._fake(student, x, z, t, cond), noise, s)
        of_fake = self._teacher(fake, s, cond)
        with torch.no_grad():
            seen = [self._noised(x, noise, s)]
            if settings.penalty:
                seen += [point + settings.penalty_step * step for point in (fake.detach(), seen[0])]
            repeated = conditions.concatenate([cond] * len(seen))
            of_others = self._teacher(torch.cat(seen), s.repeat(len(seen)), repeated)
        real = self.heads([tokens[:rows] for tokens in of_others])
        per_generator = self._loss.of_generator(_frozen(self.heads, of_fake), real.detach())
        told = self.heads([tokens.detach() for tokens in of_fake])
        per_discriminator = self._loss.of_discriminator(told, real)
        if settings.penalty:
            for place, logits in ((1, told), (2, real)):
                moved = self.heads([tokens[place * rows : (place + 1) * rows] for tokens in of_others])
                slope = (moved - logits).square().mean(1) / settings.penalty_step**2
                per_discriminator = per_discriminator + settings.penalty * slope

        def mean(values: Tensor) -> Tensor:
            return torch.where(counted, values, 0).sum() * (share.world_size / number)

        return AdversarialLosses(
            settings.weight * mean(per_generator),
            mean(per_discriminator),
            mean((real.mean(1) > told.mean(1)).float()).detach(),
            (5 + len(seen)) * rows,
        )

    def _starts(self, chosen: Tensor) -> Tensor:
        """The times of these numbers among the starts; a table of them on the host would make the host wait."""
        times = torch.zeros(chosen.shape, device=chosen.device)
        for number, start in enumerate(self.settings.starts):
            times = torch.where(chosen == number, start, times)
        return times

    def _fake(self, student: Callable[..., Tensor], x: Tensor, z: Tensor, t: Tensor, cond: Any) -> Tensor:
        zero = torch.zeros_like(t)
        x_t = self._noised(x, z, t)
        carried, moved = self._transport.step(t, zero)
        return interpolate(x_t, student(x_t, t, zero, cond).to(x_t.dtype), moved[None], carried[None])[0]

    def _noised(self, sample: Tensor, noise: Tensor, s: Tensor) -> Tensor:
        return self._transport.points(sample, noise, s[None])[0]


def _frozen(heads: nn.Module, features: list[Tensor]) -> Tensor:
    """The logits, with gradient to the features alone."""
    weights = {name: parameter.detach() for name, parameter in heads.named_parameters()}
    return torch.func.functional_call(heads, weights, (features,))
