"""What discriminator and generator minimise, from the logits of fakes and of real samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import relu, softplus

__all__ = ["LOSSES", "AdversarialLoss"]


class AdversarialLoss(ABC):
    """Losses of the samples ``[B]``, from logits ``[B, L]`` of a fake and a real sample each."""

    @abstractmethod
    def of_discriminator(self, fake: Tensor, real: Tensor) -> Tensor:
        """Falls as the logits tell the two apart, those of the real sample being higher."""

    @abstractmethod
    def of_generator(self, fake: Tensor, real: Tensor) -> Tensor:
        """Falls as the logits of the fake rise."""


class Hinge(AdversarialLoss):
    """The hinge loss, which asks for logits above 1 and below -1 and no more."""

    def of_discriminator(self, fake: Tensor, real: Tensor) -> Tensor:
        return (relu(1 + fake) + relu(1 - real)).mean(1)

    def of_generator(self, fake: Tensor, real: Tensor) -> Tensor:
        return -fake.mean(1)


class Relativistic(AdversarialLoss):
    """The relativistic pairing loss of R3GAN: it asks which of two samples is real (Huang et al. 2024, equation 2)."""

    def of_discriminator(self, fake: Tensor, real: Tensor) -> Tensor:
        return softplus(fake - real).mean(1)

    def of_generator(self, fake: Tensor, real: Tensor) -> Tensor:
        return softplus(real - fake).mean(1)


LOSSES: Mapping[str, AdversarialLoss] = {"hinge": Hinge(), "relativistic": Relativistic()}
"""Adversarial losses, by their name in a configuration."""
