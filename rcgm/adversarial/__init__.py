"""A discriminator of latents, the classic adversarial signal for few steps (LADD): heads on features of the teacher."""

from rcgm.adversarial.discriminator import AdversarialLosses, Discriminator, DiscriminatorSettings
from rcgm.adversarial.features import Features
from rcgm.adversarial.heads import Heads
from rcgm.adversarial.losses import LOSSES, AdversarialLoss

__all__ = [
    "LOSSES",
    "AdversarialLoss",
    "AdversarialLosses",
    "Discriminator",
    "DiscriminatorSettings",
    "Features",
    "Heads",
]
