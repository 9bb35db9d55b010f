"""The shape of a training configuration: every section, its keys, their types, ranges and defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from rcgm.config.truth_values import refuse_truth_values
from rcgm.sampling import SAMPLERS

__all__ = [
    "CheckpointConfig",
    "ComponentConfig",
    "EmaConfig",
    "EvaluateConfig",
    "InitFromConfig",
    "LoggingConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "SampleConfig",
    "TeacherConfig",
    "TrainConfig",
    "WandbConfig",
]

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
StepCounts = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


def _known_sampler(name: str) -> str:
    known = ("auto", *SAMPLERS)
    if name not in known:
        raise ValueError(f"must be one of {', '.join(known)}; got {name!r}")
    return name


Sampler = Annotated[str, AfterValidator(_known_sampler)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_values_are_no_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        refuse_truth_values(cls.model_fields[info.field_name].annotation, value)
        return value


class ComponentConfig(BaseModel):
    """A class by its registered name; the other keys are arguments of its constructor and are checked against it."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})

    def with_defaults(self, defaults: dict[str, Any]) -> ComponentConfig:
        """The same component with ``defaults`` for the arguments that it does not set."""
        return ComponentConfig.model_validate({"name": self.name, **defaults, **self.arguments})


class OptimizerConfig(Section):
    """The optimizer and its learning rate."""

    name: Literal["adamw", "radam"] = "adamw"
    lr: PositiveFloat = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decoupled, applied to matrices and higher tensors; biases and gains are left alone."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate grows linearly from lr/warmup_steps to lr."""
    schedule: Literal["constant"] = "constant"
    clip_grad_norm: PositiveFloat | None = None
    fused: Literal["apex", "torch"] | None = None
    """Whose AdamW runs on a GPU: NVIDIA apex's or torch's; apex's where it is installed and nothing is sharded."""

    @model_validator(mode="after")
    def _fused_is_adamw(self) -> OptimizerConfig:
        if self.fused is not None and self.name != "adamw":
            raise ValueError(f"fused needs name: adamw, got {self.fused} with {self.name}")
        return self


class EmaConfig(Section):
    """The average of the student's weights."""

    decay: Fraction = 0.999
    """Of the average that is sampled from. 0 makes the student itself that, and the target network."""
    warmup: bool = True
    cast: Literal["bfloat16", "float16"] | None = None
    """Run target forwards on a copy of the average in this format."""
    target_decay: Fraction | None = None
    """The target network is a second average with this decay; the first one where it is left out."""
    target_warmup: bool = True

    @model_validator(mode="after")
    def _cast_needs_an_average(self) -> EmaConfig:
        if self.cast is not None and (self.decay if self.target_decay is None else self.target_decay) == 0:
            raise ValueError("cast needs decay > 0: with decay 0 the target is the student itself")
        return self


class TeacherConfig(Section):
    """The frozen network of another run, for distillation."""

    run: str
    """Folder of the run."""
    checkpoint: PositiveInt | None = None
    """Step of its checkpoint; the newest where it is left out."""
    weights: Literal["ema", "student"] = "ema"
    kind: Literal["instantaneous", "any_step"] = "instantaneous"
    """What it knows: an instantaneous teacher, such as one of flow matching, is only ever asked at r = t."""
    initialise_student: bool = False
    """Begin from its weights, where names and shapes agree."""


class InitFromConfig(Section):
    """Weights to begin from, other than those of a teacher; a run that goes on reads its checkpoint instead."""

    path: str
    """A file of weights; for the layout rcgm a folder or a file that rcgm export wrote."""
    layout: Literal["rcgm", "dit", "sit", "lightningdit"]
    """Whose names and conventions they have; the others are those of rcgm.models.published."""
    weights: Literal["ema", "student"] = "ema"
    """Which of a checkpoint that holds both."""


class CheckpointConfig(Section):
    """How often the state of a run is saved, and how many checkpoints are kept."""

    every: PositiveInt = 1000
    keep: PositiveInt = 2
    background: bool = False
    """Go on training while a checkpoint is written, at the price of a copy of it in the memory of the host."""


class WandbConfig(Section):
    """A run of Weights & Biases, which needs its package: pip install 'rcgm[wandb]'."""

    project: str
    name: str | None = None
    mode: Literal["online", "offline", "disabled"] = "online"


class LoggingConfig(Section):
    """What is reported while training, how often, and where to."""

    every: PositiveInt = 50
    tensorboard: bool = True
    wandb: WandbConfig | None = None
    time_ranges: NonNegativeInt = 5
    """Equal ranges of t by which the loss is reported; 0 for none."""
    peak_tflops: PositiveFloat | None = None
    """Rate of the device, for mfu; that published for it where it is left out."""


class SampleConfig(Section):
    """Pictures of samples that are drawn while training."""

    every: NonNegativeInt = 1000
    """0 draws no pictures while training."""
    steps: StepCounts = (1, 2, 4)
    sampler: Sampler = "auto"
    """A key of rcgm.sampling.SAMPLERS; auto is the one that the objective trains for."""
    guidance: float = 1.0
    count: PositiveInt = 80
    decoder: str | None = None
    """Folder of the autoencoder that decodes samples of latents; without one, three channels of them are drawn."""


class EvaluateConfig(Section):
    """Measures of samples, while training and at its end."""

    every: NonNegativeInt = 0
    """0 evaluates only after the last step. Data for which there is no measure are never evaluated."""
    at_end: bool = True
    steps: StepCounts = (1, 2, 4)
    sampler: Sampler = "auto"
    guidance: float = 1.0
    count: PositiveInt = 2000
    features: str | None = None
    """Weights of the Inception network, for FID, Inception Score, precision and recall of images."""
    reference: str | None = None
    """Statistics of real images, .npz or .safetensors; those of the data where it is left out."""
    reference_count: PositiveInt = 50_000
    """Images of the data to compare with, where there is no file of statistics."""
    batch_size: PositiveInt = 64
    """Images that a process makes and judges at a time."""

    @model_validator(mode="after")
    def _reference_needs_features(self) -> EvaluateConfig:
        if self.reference is not None and self.features is None:
            raise ValueError("reference needs features, the weights of the network that judges images")
        return self


class ParallelConfig(Section):
    """How a run is spread over the processes that torchrun starts, and what is computed again to save memory."""

    shard: Literal["full", "hybrid", "replicate"] = "full"
    """Parameters are sharded over all processes; over shard_size of them, with copies; or every process has all."""
    shard_size: PositiveInt | None = None
    """Processes that share a copy, for hybrid; those of a node where it is left out."""
    keep_student_gathered: bool = False
    """Keep the student's gathered parameters from the forward to the backward: faster, as much memory as they take."""
    keep_target_gathered: bool = True
    """Gather the target's parameters, and a teacher's, once in a step rather than in every wave."""
    gather_dtype: Literal["bfloat16"] | None = None
    """Format in which parameters are gathered and used; their own where it is left out."""
    reduce_dtype: Literal["float32", "bfloat16"] | None = None
    """Format in which gradients are added up; that of gather_dtype where it is left out."""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """What the backward computes again: nothing; all but matrix products and attention; every block."""

    @model_validator(mode="after")
    def _size_needs_hybrid(self) -> ParallelConfig:
        if self.shard_size is not None and self.shard != "hybrid":
            raise ValueError(f"shard_size needs shard: hybrid, got {self.shard_size} with {self.shard}")
        return self


class TrainConfig(Section):
    """One training run. ``data``, ``model`` and ``objective`` name a class and set its arguments."""

    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    """Compile each block of the networks."""
    cuda_graphs: bool = False
    """Replay the forwards of target and teacher as CUDA graphs: faster where launching takes longer than running."""
    steps: PositiveInt
    batch_size: PositiveInt
    """Samples of one optimizer step, over all micro-batches."""
    accumulate: PositiveInt = 1
    """Micro-batches that one optimizer step is split into; divides batch_size."""
    workers: NonNegativeInt = 0
    skip_nonfinite: bool = False
    """Leave out steps whose loss or gradient is not finite, and count them, rather than end the run."""
    skip_limit: PositiveInt = 10
    """So many left out in a row end the run."""
    data: ComponentConfig
    model: ComponentConfig
    objective: ComponentConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: EmaConfig = EmaConfig()
    teacher: TeacherConfig | None = None
    init_from: InitFromConfig | None = None
    parallel: ParallelConfig = ParallelConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()
    sample: SampleConfig = SampleConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _begins_in_one_way(self) -> TrainConfig:
        if self.init_from is not None and self.teacher is not None and self.teacher.initialise_student:
            raise ValueError("init_from and teacher.initialise_student exclude one another: leave out one of them")
        return self

    @model_validator(mode="after")
    def _micro_batches_are_equal(self) -> TrainConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size must be a multiple of accumulate, got {self.batch_size} and {self.accumulate}"
            )
        return self
