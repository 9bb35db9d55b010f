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
    model_validator,
)

from rcgm.config.discriminator_section import DiscriminatorConfig
from rcgm.config.learning_sections import EmaConfig, InitFromConfig, LoraConfig, OptimizerConfig, TeacherConfig
from rcgm.config.section import Section
from rcgm.sampling import SAMPLERS

__all__ = [
    "CheckpointConfig",
    "ComponentConfig",
    "DiscriminatorConfig",
    "EmaConfig",
    "EvaluateConfig",
    "InitFromConfig",
    "LoggingConfig",
    "LoraConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "SampleConfig",
    "TeacherConfig",
    "TrainConfig",
    "WandbConfig",
]

StepCounts = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


def _known_sampler(name: str) -> str:
    known = ("auto", *SAMPLERS)
    if name not in known:
        raise ValueError(f"must be one of {', '.join(known)}; got {name!r}")
    return name


Sampler = Annotated[str, AfterValidator(_known_sampler)]


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
    """Keep the student's gathered parameters from the forward to the backward: faster, but more memory. Not for tune
    lora."""
    keep_target_gathered: bool = True
    """Gather the parameters of target and teacher once per step, not in every wave of forwards; with tune lora those of
    the base, for the student too."""
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
    tune: Literal["full", "lora"] = "full"
    """Train all parameters, or adapters on the frozen network that student, target and teacher share."""
    lora: LoraConfig = LoraConfig()
    teacher: TeacherConfig | None = None
    discriminator: DiscriminatorConfig | None = None
    """An adversarial term beside the objective. Default: none."""
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
    def _discriminator_has_a_teacher(self) -> TrainConfig:
        if self.discriminator is not None and self.teacher is None:
            raise ValueError(
                "discriminator needs a teacher, whose features it looks at: set teacher.run to the folder of a trained "
                "run, or teacher.base to true"
            )
        return self

    @model_validator(mode="after")
    def _adapters_have_a_base(self) -> TrainConfig:
        if self.tune == "full" and self.lora != LoraConfig():
            raise ValueError("lora must be left out with tune full: set tune to lora")
        quantization = self.model.arguments.get("quantization", "none")
        if self.tune == "full" and quantization != "none":
            raise ValueError(f"model.quantization must be none with tune full, got {quantization}: set tune to lora")
        if self.tune == "lora" and self.teacher is not None and self.teacher.initialise_student:
            raise ValueError(
                "teacher.initialise_student must be false with tune lora, whose base does not change: export the "
                "teacher, and give the file as init_from"
            )
        return self

    @model_validator(mode="after")
    def _micro_batches_are_equal(self) -> TrainConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size must be a multiple of accumulate, got {self.batch_size} and {self.accumulate}"
            )
        return self
