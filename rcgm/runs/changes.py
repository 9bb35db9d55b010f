"""What may differ between the configuration of a run and the one that it goes on with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rcgm.config import ConfigError, TrainConfig

__all__ = ["ON_REQUEST", "Change", "changes_between", "check_requests"]

FREE = (
    *("steps", "device", "compile", "workers", "parallel", "checkpoint", "logging", "sample", "evaluate"),
    *("skip_nonfinite", "skip_limit"),
)
"""Sections and keys that may always differ: they do not change the numbers of a finite step but for rounding."""

ON_REQUEST = (
    *("data.root", "data.path", "data.labels_path", "data.statistics", "teacher.run", "init_from.path"),
    *("optimizer.lr", "optimizer.betas", "optimizer.eps", "optimizer.weight_decay", "optimizer.warmup_steps"),
    *("optimizer.schedule", "optimizer.decay_steps", "optimizer.final_lr"),
    *("optimizer.clip_grad_norm", "optimizer.fused"),
)
"""Keys that may differ if asked for by name: they do not change what the run learns from or what its state means."""


@dataclass(frozen=True)
class Change:
    """A key whose value differs."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key} was {self.before!r} and is {self.now!r}"

    def to_plain(self) -> dict[str, Any]:
        """The change in values that JSON can hold."""
        return asdict(self)


def check_requests(keys: Collection[str]) -> None:
    """Raise unless each of ``keys`` may be changed on request.

    Raises:
        ConfigError: a key is not one of :data:`ON_REQUEST`.
    """
    for key in keys:
        if key not in ON_REQUEST:
            raise ConfigError(f"allow_changes must name any of {', '.join(ON_REQUEST)}; got '{key}'")


def changes_between(before: TrainConfig, now: TrainConfig, allowed: Collection[str]) -> list[Change]:
    """The changes of keys that are not free to differ, all of them ``allowed``.

    Raises:
        ConfigError: there are others.
    """
    old, new = before.model_dump(mode="json"), now.model_dump(mode="json")
    changes = [change for key in new if key not in FREE for change in _changes(key, old.get(key), new[key])]
    refused = [change for change in changes if change.key not in allowed]
    if refused:
        askable = [change.key for change in refused if change.key in ON_REQUEST]
        hint = "; can be allowed: " + " ".join(f"--allow-change {key}" for key in askable) if askable else ""
        raise ConfigError("; ".join(map(str, refused)) + hint)
    return changes


def _changes(path: str, old: Any, new: Any) -> list[Change]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = dict.fromkeys([*old, *new])
        return [change for name in names for change in _changes(f"{path}.{name}", old.get(name), new.get(name))]
    return [] if old == new else [Change(path, old, new)]
