"""What discriminator and generator minimise, from the logits of fakes and of real samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import relu, softplus

__all__ = ["LOSSES", "AdversarialLoss"]


@dataclass(frozen=True)
class AdversarialLoss:
    """Losses of the samples ``[B]``, from logits ``[B, L]`` of a fake and a real sample each.

    Args:
        pairs: true if the generator's loss compares a fake with a real sample.
    """

    pairs: bool = False

    def of_discriminator(self, fake: Tensor, real: Tensor) -> Tensor:
        """Hinge loss: falls until a real sample is above 1 and a fake below -1."""
        return (relu(1 + fake) + relu(1 - real)).mean(1)

    def of_generator(self, fake: Tensor, real: Tensor) -> Tensor:
        """Rises with the discriminator's doubt; ``real`` is of no matter."""
        return -fake.mean(1)


class Relativistic(AdversarialLoss):
    """The relativistic pairing loss of R3GAN: it asks which of two samples is real (Huang et al. 2024, equation 2)."""

    def of_discriminator(self, fake: Tensor, real: Tensor) -> Tensor:
        return softplus(fake - real).mean(1)

    def of_generator(self, fake: Tensor, real: Tensor) -> Tensor:
        return softplus(real - fake).mean(1)


LOSSES: Mapping[str, AdversarialLoss] = {"hinge": AdversarialLoss(), "relativistic": Relativistic(pairs=True)}
"""Adversarial losses, by their name in a configuration."""
