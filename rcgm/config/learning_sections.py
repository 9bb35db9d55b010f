"""Sections of a configuration that say what is learnt, from what, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from rcgm.config.section import Section

__all__ = ["EmaConfig", "InitFromConfig", "LoraConfig", "OptimizerConfig", "TeacherConfig"]

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class OptimizerConfig(Section):
    """The optimizer and its learning rate."""

    name: Literal["adamw", "radam"] = "adamw"
    lr: PositiveFloat = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decoupled; applied to matrices and tensors of more dimensions, not to biases and gains."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate grows linearly from lr/warmup_steps to lr."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls from lr to final_lr at the end of the run. Where a run goes on with more steps, it is
    lr again until their end is near."""
    decay_steps: PositiveInt | None = None
    """The last steps of the run, in which it falls. Default: all after the warm-up."""
    final_lr: Annotated[float, Field(ge=0.0)] = 0.0
    clip_grad_norm: PositiveFloat | None = None
    fused: Literal["apex", "torch"] | None = None
    """Implementation of AdamW on a GPU. Default: apex (NVIDIA's) if it is installed and nothing is sharded."""

    @model_validator(mode="after")
    def _decay_needs_a_schedule(self) -> OptimizerConfig:
        if self.schedule == "constant" and (self.decay_steps is not None or self.final_lr):
            raise ValueError(
                "decay_steps and final_lr must be left out with the schedule constant: choose schedule linear or cosine"
            )
        if self.final_lr > self.lr:
            raise ValueError(f"final_lr must be at most lr, {self.lr:g}, got {self.final_lr:g}")
        return self

    @model_validator(mode="after")
    def _fused_is_adamw(self) -> OptimizerConfig:
        if self.fused is not None and self.name != "adamw":
            raise ValueError(
                f"fused must be left out for optimizers other than adamw, got {self.fused} with {self.name}"
            )
        return self


class EmaConfig(Section):
    """The average of the student's weights."""

    decay: Fraction = 0.999
    """Decay of the average that is sampled from. With 0, samples and targets come from the student itself."""
    warmup: bool = True
    cast: Literal["bfloat16", "float16"] | None = None
    """Run the forwards of the target network on a copy of the average in this format."""
    target_decay: Fraction | None = None
    """The target network is a second average with this decay. Default: it is the first average."""
    target_warmup: bool = True

    @model_validator(mode="after")
    def _cast_needs_an_average(self) -> EmaConfig:
        if self.cast is not None and (self.decay if self.target_decay is None else self.target_decay) == 0:
            raise ValueError("cast must be left out with decay 0: the target network is the student itself then")
        return self


class TeacherConfig(Section):
    """A frozen network, for distillation: that of another run, or the one that the run begins with."""

    base: bool = False
    """The network as it is before this training: with tune lora its base, which takes no more memory."""
    run: Annotated[str | None, Field(validate_default=True)] = None
    """Folder of the run."""
    checkpoint: PositiveInt | None = None
    """Step of the run's checkpoint. Default: the newest."""
    weights: Literal["ema", "student"] = "ema"
    kind: Literal["instantaneous", "any_step"] = "instantaneous"
    """An instantaneous teacher, such as one of flow matching, is only evaluated at r = t."""
    initialise_student: bool = False
    """Start from its weights, where names and shapes agree."""

    @field_validator("run")
    @classmethod
    def _is_one_network(cls, value: str | None, info: ValidationInfo) -> str | None:
        base = info.data.get("base", False)
        if value is None and not base:
            raise ValueError("missing: give the folder of a run, or set base to true")
        if value is not None and base:
            raise ValueError(f"must be left out with base, got {value!r}: choose one of them")
        return value

    @model_validator(mode="after")
    def _base_is_of_no_run(self) -> TeacherConfig:
        if self.base and (self.checkpoint, self.weights, self.initialise_student) != (None, "ema", False):
            raise ValueError("checkpoint, weights and initialise_student must be left out with base: they are of a run")
        return self


class InitFromConfig(Section):
    """Weights to start from, other than those of a teacher. A resumed run reads its checkpoint instead,
    except for the base of adapters."""

    path: str
    """File of weights; for the layout rcgm, a file or folder that rcgm export wrote."""
    layout: Literal["rcgm", "dit", "sit", "lightningdit"]
    """Names and conventions of the weights: rcgm, or one of rcgm.models.published."""
    weights: Literal["ema", "student"] = "ema"
    """Which weights to take from a checkpoint that holds both."""


class LoraConfig(Section):
    """Adapters on the linear layers of a frozen network, for ``tune: lora``; it needs peft."""

    rank: PositiveInt = 64
    alpha: PositiveFloat = 64.0
    """Scale of the adapters, times rank."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Ends of the names of the layers. Default: those that the network's class names."""
