"""Whether a run may go on from its newest checkpoint, with this configuration and these data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rcgm.config import ConfigError, TrainConfig
from rcgm.data import fingerprint_differences
from rcgm.runs.changes import changes_between
from rcgm.runs.checkpoint import Checkpoint
from rcgm.runs.loading import config_of

__all__ = ["check_resumable"]


def check_resumable(
    checkpoint: Checkpoint, config: TrainConfig, fingerprint: Mapping[str, Any], *, allow_changes: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Compare a run with what it is to go on with.

    Args:
        checkpoint: of the run.
        config: fitted to the data.
        fingerprint: of the data; see :func:`rcgm.data.data_fingerprint`.
        allow_changes: keys of the configuration that may differ besides those that always may.

    Returns:
        The changes of the run, earlier ones first: step, key, and the value before and now.

    Raises:
        CheckpointError: the checkpoint is damaged.
        ConfigError: the configuration or the data differ, or the run is beyond ``config.steps``.
    """
    try:
        changes = changes_between(config_of(checkpoint), config, allow_changes)
    except ConfigError as error:
        raise ConfigError(f"the configuration differs from that of '{checkpoint.path}': {error}") from error
    differences = fingerprint_differences(_known(checkpoint), fingerprint)
    if differences:
        raise ConfigError(
            f"the data differ from those of '{checkpoint.path}': {'; '.join(differences)}: restore them, or begin "
            "another run"
        )
    if checkpoint.step > config.steps:
        raise ConfigError(f"steps is {config.steps}, and '{checkpoint.path}' is beyond that already")
    earlier = checkpoint.state.get("changes", [])
    return [*earlier, *({"step": checkpoint.step, **change.to_plain()} for change in changes)]


def _known(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The fingerprint in the checkpoint; of an earlier version what it holds of the data."""
    if "data_fingerprint" in checkpoint.state:
        return checkpoint.value("data_fingerprint", dict)
    data = checkpoint.value("data", dict)
    names = {"shape": "shape", "classes": "num_classes", "class_names": "class_names"}
    return {entry: data[name] for entry, name in names.items() if name in data}
