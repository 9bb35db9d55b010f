"""Whether the network of a run can be sampled with guidance."""

from __future__ import annotations

from rcgm.config import ConfigError, TrainConfig
from rcgm.networks import NETWORKS

__all__ = ["check_guidance"]


def check_guidance(config: TrainConfig, guidance: float, name: str = "guidance", *, captioned: bool = False) -> None:
    """Raise unless the network of ``config``, fitted to its data, knows what to predict without a class or caption.

    A network that began from the weights of another may have learned it there. One with ``guidance_input`` has learned
    what to predict with guidance.

    Args:
        config: of the run.
        guidance: scale of classifier-free guidance while sampling; 1 needs nothing.
        name: of the setting, for messages.
        captioned: whether the data have captions. Published networks have learned the empty one.

    Raises:
        ConfigError: the network takes no conditions, or has never been trained without a class.
    """
    if guidance == 1 or (captioned and config.model.name in NETWORKS):
        return
    if config.model.arguments.get("guidance_input"):
        if guidance < 1:
            raise ConfigError(f"{name} must be at least 1 for a network with guidance_input, got {guidance:g}")
        return
    if config.model.arguments.get("num_classes") is None and not captioned:
        raise ConfigError(f"{name} must be 1 for a network without classes, got {guidance:g}")
    other_weights = config.init_from is not None or (config.teacher is not None and config.teacher.initialise_student)
    if not config.objective.arguments.get("label_dropout") and not other_weights:
        raise ConfigError(
            f"{name} must be 1 for a network that is trained with objective.label_dropout 0, got {guidance:g}: it does "
            "not learn what to predict without a class; train with label_dropout above 0, such as 0.1"
        )
