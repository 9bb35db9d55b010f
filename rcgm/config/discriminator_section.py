"""The section of a configuration that asks for a discriminator."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from rcgm.adversarial import DiscriminatorSettings
from rcgm.config.learning_sections import OptimizerConfig
from rcgm.config.section import Section

__all__ = ["DiscriminatorConfig"]


class DiscriminatorConfig(Section):
    """A discriminator of latents, on features of the teacher: an adversarial term beside the objective (LADD)."""

    weight: float = DiscriminatorSettings.weight
    """Of the term, relative to the loss of the objective."""
    loss: str = DiscriminatorSettings.loss
    """A key of rcgm.adversarial.LOSSES: hinge, or relativistic (R3GAN)."""
    fraction: float = DiscriminatorSettings.fraction
    """Of the batch that the term is taken on: one more forward and backward of so many samples."""
    starts: Annotated[tuple[float, ...], Field(min_length=1)] = DiscriminatorSettings.starts
    """Times at which the one-step samples begin that are told from data."""
    noise_mean: float = DiscriminatorSettings.noise_mean
    """Mean of the logit of the times at which they are told apart."""
    noise_std: float = DiscriminatorSettings.noise_std
    penalty: float = DiscriminatorSettings.penalty
    """Of the discriminator's slope at fakes and data (R1 and R2), from finite differences."""
    penalty_step: float = DiscriminatorSettings.penalty_step
    features: PositiveInt = 4
    """Blocks of the teacher whose outputs are looked at."""
    hidden: PositiveInt = 256
    """Width of the heads on them."""
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-4, betas=(0.0, 0.99))
    """Of the heads."""

    @model_validator(mode="after")
    def _in_range(self) -> DiscriminatorConfig:
        try:
            self.settings()
        except TypeError as error:
            raise ValueError(str(error)) from error
        return self

    def settings(self) -> DiscriminatorSettings:
        """What the term itself takes."""
        names = (field.name for field in dataclasses.fields(DiscriminatorSettings))
        return DiscriminatorSettings(**{name: getattr(self, name) for name in names})
