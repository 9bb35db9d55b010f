"""Typed training configurations: YAML files, overrides on the command line, and errors that name the nearest key."""

from rcgm.config.build import build_dataset_from, build_model_from, build_objective_from, fit_to_data
from rcgm.config.errors import ConfigError
from rcgm.config.loading import apply_overrides, config_to_yaml, load_config, parse_config
from rcgm.config.schema import (
    CheckpointConfig,
    ComponentConfig,
    DiscriminatorConfig,
    EmaConfig,
    EvaluateConfig,
    InitFromConfig,
    LoggingConfig,
    LoraConfig,
    OptimizerConfig,
    ParallelConfig,
    SampleConfig,
    TeacherConfig,
    TrainConfig,
    WandbConfig,
)

__all__ = [
    "CheckpointConfig",
    "ComponentConfig",
    "ConfigError",
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
    "apply_overrides",
    "build_dataset_from",
    "build_model_from",
    "build_objective_from",
    "config_to_yaml",
    "fit_to_data",
    "load_config",
    "parse_config",
]
