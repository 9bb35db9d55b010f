"""Networks by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from rcgm.models.dit import DiT
from rcgm.models.mlp import MLP
from rcgm.models.text_dit import TextDiT

__all__ = ["MODELS", "build_model"]

MODELS: Mapping[str, type[nn.Module]] = {"dit": DiT, "mlp": MLP, "text_dit": TextDiT}
"""Networks, by their name in a configuration."""


def build_model(name: str, *, preset: str | None = None, **arguments: Any) -> nn.Module:
    """The network that a configuration describes.

    Args:
        name: a key of ``MODELS``.
        preset: a key of ``PRESETS``, for ``"dit"`` and ``"text_dit"``; what ``arguments`` say wins over it.
        arguments: those of the constructor.

    Raises:
        TypeError, ValueError: unknown name or preset, or as the constructor.

    Example:
        >>> build_model("dit", preset="micro/2", input_size=8, in_channels=1, num_classes=10).num_classes
        10
    """
    if name not in MODELS:
        raise ValueError(f"name must be one of {', '.join(MODELS)}, got {name!r}")
    model = MODELS[name]
    if preset is None:
        return model(**arguments)
    if not hasattr(model, "from_preset"):
        raise ValueError(f"preset must be left out: {name!r} has none, got {preset!r}")
    return model.from_preset(preset, **arguments)
