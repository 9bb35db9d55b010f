"""Sizes of diffusion transformers by name, such as ``XL/2``: size and side of a patch."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

__all__ = ["PRESETS", "with_preset"]

_SIZES = {
    # Peebles & Xie 2023, table 1.
    "S": {"hidden_size": 384, "depth": 12, "num_heads": 6},
    "B": {"hidden_size": 768, "depth": 12, "num_heads": 12},
    "L": {"hidden_size": 1024, "depth": 24, "num_heads": 16},
    "XL": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
    # JiT (Li & He 2025).
    "H": {"hidden_size": 1280, "depth": 32, "num_heads": 16},
    # LightningDiT's published code; of 1.0 and 1.6 billion parameters.
    "1p0B": {"hidden_size": 1536, "depth": 24, "num_heads": 24},
    "1p6B": {"hidden_size": 1792, "depth": 28, "num_heads": 28},
}

_SMALL_SIZES = {
    # For images of about 8x8 on a CPU: some 7 thousand, 250 thousand and 1 million parameters.
    "nano": {"hidden_size": 16, "depth": 1, "num_heads": 2, "frequency_size": 32},
    "micro": {"hidden_size": 64, "depth": 3, "num_heads": 4, "frequency_size": 128},
    "tiny": {"hidden_size": 128, "depth": 3, "num_heads": 4, "frequency_size": 256},
}

_LIGHTNING = {"time_scale": 1.0, "norm": "rms_gain", "feed_forward": "swiglu", "positions": "sincos_rope"}
"""What LightningDiT's published weights were trained with. Their time, as SiT's, is not scaled."""


def _presets(sizes: Mapping[str, Mapping[str, int]], patches: tuple[int, ...], prefix: str = "", **more: Any) -> dict:
    return {
        f"{prefix}{name}/{patch}": {**size, "patch_size": patch, **more}
        for name, size in sizes.items()
        for patch in patches
    }


def _of(*names: str) -> dict[str, dict[str, int]]:
    return {name: _SIZES[name] for name in names}


PRESETS: Mapping[str, Mapping[str, Any]] = {
    **_presets(_SIZES, (1, 2, 4, 8)),
    **_presets(_SMALL_SIZES, (1, 2, 4)),
    **_presets(_of("S", "B", "L", "XL"), (2, 4, 8), "DiT-", time_scale=1000.0),
    **_presets(_of("S", "B", "L", "XL"), (2, 4, 8), "SiT-", time_scale=1.0),
    **_presets(_of("B", "L", "XL", "1p0B", "1p6B"), (1, 2), "LightningDiT-", **_LIGHTNING),
}
"""Arguments of :class:`~rcgm.models.dit.DiT` by name.

S, B, L, XL, H, 1p0B, 1p6B with patches of 1, 2, 4, 8; nano, micro, tiny with patches of 1, 2, 4. With the prefix DiT-,
SiT- or LightningDiT-, what a network needs besides to take the weights published under that name.
"""


def with_preset(preset: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that the preset stands for, and ``arguments``, which win.

    Raises:
        ValueError: there is no such preset; the message names the nearest.
    """
    if preset not in PRESETS:
        nearest = "".join(f" (did you mean {name!r}?)" for name in get_close_matches(str(preset), PRESETS, n=1))
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}{nearest}")
    return {**PRESETS[preset], **arguments}
