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
    """Decoupled; applied to matrices and tensors of more dimensions, not to biases and gains."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate grows linearly from lr/warmup_steps to lr."""
    schedule: Literal["constant"] = "constant"
    clip_grad_norm: PositiveFloat | None = None
    fused: Literal["apex", "torch"] | None = None
    """Implementation of AdamW on a GPU. Default: apex (NVIDIA's) if it is installed and nothing is sharded."""

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
    """The frozen network of another run, for distillation."""

    run: str
    """Folder of the run."""
    checkpoint: PositiveInt | None = None
    """Step of its checkpoint. Default: the newest."""
    weights: Literal["ema", "student"] = "ema"
    kind: Literal["instantaneous", "any_step"] = "instantaneous"
    """An instantaneous teacher, such as one of flow matching, is only evaluated at r = t."""
    initialise_student: bool = False
    """Start from its weights, where names and shapes agree."""


class InitFromConfig(Section):
    """Weights to start from, other than those of a teacher. A resumed run reads its checkpoint instead."""

    path: str
    """File of weights; for the layout rcgm, a file or folder that rcgm export wrote."""
    layout: Literal["rcgm", "dit", "sit", "lightningdit"]
    """Names and conventions of the weights: rcgm, or one of rcgm.models.published."""
    weights: Literal["ema", "student"] = "ema"
    """Which weights to take from a checkpoint that holds both."""


class CheckpointConfig(Section):
    """How often the state of a run is saved, and how many checkpoints are kept."""

    every: PositiveInt = 1000
    keep: PositiveInt = 2
    background: bool = False
    """Train on while a checkpoint is written. It needs host memory for a copy of the checkpoint."""


class WandbConfig(Section):
    """A run of Weights & Biases, which needs its package: pip install 'rcgm[wandb]'."""

    project: str
    name: str | None = None
    mode: Literal["online", "offline", "disabled"] = "online"


class LoggingConfig(Section):
    """What is reported while training, how often and where."""

    every: PositiveInt = 50
    tensorboard: bool = True
    wandb: WandbConfig | None = None
    time_ranges: NonNegativeInt = 5
    """Equal ranges of t by which the loss is reported; 0 for none."""
    peak_tflops: PositiveFloat | None = None
    """Peak rate of the device, for mfu. Default: the published rate."""


class SampleConfig(Section):
    """Pictures of samples that are drawn while training."""

    every: NonNegativeInt = 1000
    """0 draws no pictures while training."""
    steps: StepCounts = (1, 2, 4)
    sampler: Sampler = "auto"
    """A key of rcgm.sampling.SAMPLERS; auto is the sampler that the objective trains for."""
    guidance: float = 1.0
    count: PositiveInt = 80
    decoder: str | None = None
    """Folder of the autoencoder that decodes samples of latents. Default: three channels of the latents are drawn."""


class EvaluateConfig(Section):
    """Measures of samples, while training and at its end."""

    every: NonNegativeInt = 0
    """0 evaluates only after the last step. Data without a measure are never evaluated."""
    at_end: bool = True
    steps: StepCounts = (1, 2, 4)
    sampler: Sampler = "auto"
    guidance: float = 1.0
    count: PositiveInt = 2000
    features: str | None = None
    """Weights of the Inception network, for FID, Inception Score, precision and recall of images."""
    reference: str | None = None
    """Statistics of real images, .npz or .safetensors. Default: those of the data."""
    reference_count: PositiveInt = 50_000
    """Images of the data to compare with if there is no file of statistics."""
    batch_size: PositiveInt = 64
    """Images per batch and process."""

    @model_validator(mode="after")
    def _reference_needs_features(self) -> EvaluateConfig:
        if self.reference is not None and self.features is None:
            raise ValueError(
                "reference must be left out without features, the weights of the network that judges images"
            )
        return self


class ParallelConfig(Section):
    """How a run is distributed over the processes of torchrun, and which activations are recomputed."""

    shard: Literal["full", "hybrid", "replicate"] = "full"
    """Shard parameters over all processes (full), over shard_size of them (hybrid), or not at all (replicate)."""
    shard_size: PositiveInt | None = None
    """Processes per copy, for hybrid. Default: those of a node."""
    keep_student_gathered: bool = False
    """Keep the student's gathered parameters from the forward to the backward: faster, but more memory."""
    keep_target_gathered: bool = True
    """Gather the parameters of target and teacher once per step, not in every wave of forwards."""
    gather_dtype: Literal["bfloat16"] | None = None
    """Format in which parameters are gathered and used. Default: their own."""
    reduce_dtype: Literal["float32", "bfloat16"] | None = None
    """Format in which gradients are summed. Default: that of gather_dtype."""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """What the backward recomputes: nothing; all but matrix products and attention; every block."""

    @model_validator(mode="after")
    def _size_needs_hybrid(self) -> ParallelConfig:
        if self.shard_size is not None and self.shard != "hybrid":
            raise ValueError(
                f"shard_size must be left out unless shard is hybrid, got {self.shard_size} with {self.shard}"
            )
        return self


class TrainConfig(Section):
    """One training run. ``data``, ``model`` and ``objective`` name a class and set its arguments."""

    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    """Compile each block of the networks."""
    cuda_graphs: bool = False
    """Run target and teacher as CUDA graphs: faster if launching kernels takes longer than running them."""
    steps: PositiveInt
    batch_size: PositiveInt
    """Samples per optimizer step, over all micro-batches and processes."""
    accumulate: PositiveInt = 1
    """Micro-batches per optimizer step; must divide batch_size."""
    workers: NonNegativeInt = 0
    skip_nonfinite: bool = False
    """Skip and count steps with a non-finite loss or gradient, instead of ending the run."""
    skip_limit: PositiveInt = 10
    """Abort after this many consecutive skipped steps."""
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
            raise ValueError("init_from must be left out with teacher.initialise_student: choose one of them")
        return self

    @model_validator(mode="after")
    def _micro_batches_are_equal(self) -> TrainConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size must be a multiple of accumulate, got {self.batch_size} and {self.accumulate}"
            )
        return self
