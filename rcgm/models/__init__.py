"""Networks ``(x, t, r, cond)`` that predict the average velocity over [r, t], and adapters for those of others."""

from __future__ import annotations

from rcgm.models.adapters import CallSignature, ReversedTime, TimeAndInterval, TimeOnly
from rcgm.models.attention_backends import attention_backends
from rcgm.models.dit import DiT
from rcgm.models.mlp import MLP
from rcgm.models.presets import PRESETS
from rcgm.models.pretrained import load_pretrained, save_pretrained
from rcgm.models.registry import MODELS, build_model
from rcgm.models.text_dit import TextDiT

__all__ = [
    "MLP",
    "MODELS",
    "PRESETS",
    "CallSignature",
    "DiT",
    "ReversedTime",
    "TextDiT",
    "TimeAndInterval",
    "TimeOnly",
    "attention_backends",
    "build_model",
    "load_pretrained",
    "save_pretrained",
]
