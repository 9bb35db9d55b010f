"""A run of a tiny SANA on encoded pairs of two shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import SanaTransformer2DModel

from tests.support.encoded_pairs import WIDTH, write_pairs

SHAPES = ((4, 4, 6), (4, 6, 4))


def text_run(folder: Path) -> dict[str, Any]:
    """Write pairs and a published network to ``folder``; returns a configuration."""
    write_pairs(folder / "data", [(SHAPES[0], 9), (SHAPES[1], 7)], pooled=False)
    torch.manual_seed(0)
    network = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=4, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=WIDTH,
        sample_size=8,
    )  # fmt: skip
    network.save_pretrained(folder / "sana" / "transformer")
    return {
        "steps": 9,
        "batch_size": 4,
        "device": "cpu",
        "data": {"name": "encoded_pairs", "path": str(folder / "data")},
        "model": {"name": "sana", "path": str(folder / "sana")},
        "objective": {"name": "rcgm", "order": 2, "label_dropout": 0.3, "guidance": {"scale": 0.5}},
        "optimizer": {"lr": 1e-3, "clip_grad_norm": 1.0},
        "ema": {"decay": 0.9},
        "checkpoint": {"every": 4, "keep": 3},
        "logging": {"every": 2, "tensorboard": False},
        "sample": {"every": 9, "count": 5, "steps": [1, 2], "guidance": 2.0},
        "evaluate": {"at_end": True},
    }
