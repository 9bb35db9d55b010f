"""A run of a tiny published network on encoded pairs, and the pipeline that encodes and decodes for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rcgm.config import parse_config
from rcgm.data.text.layout import captions_path, packed_text
from rcgm.networks.pipelines import TextPipeline
from rcgm.training import train
from tests.support.encoded_pairs import write_manifest
from tests.support.tiny_pipelines import tiny_pipeline

LENGTH = 24
SHAPE = (4, 4, 6)
"""Latents of the data, of images of 8 by 12."""


def prompt_run(
    root: Path, *, family: str = "sana", encoder: str = "", label_dropout: float = 0.2, **changes: Any
) -> Path:
    """Train a run for two steps on pairs of captions in ``root``; returns its folder. The pipeline is ``root/FAMILY``.

    ``changes`` replace sections of its configuration.
    """
    path = root / family
    tiny_pipeline(family).save_pretrained(path)
    text = TextPipeline.from_pretrained(family, path, parts=("text",), length=LENGTH)
    captions = [f"picture {number}" for number in range(6)]
    data = root / "data"
    data.mkdir()
    latents = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(0))
    cond = text.encode_prompts(captions)
    shard = data / "text_shard00000.safetensors"
    save_file({"latents": latents, **packed_text(cond)}, shard)
    images = [f"{number}.png" for number in range(6)]
    captions_path(shard).write_text(json.dumps({"captions": captions, "images": images}))
    save_file({name: tensor.contiguous() for name, tensor in text.encode_null().items()}, data / "null.safetensors")
    write_manifest(
        data,
        family=family,
        pipeline=str(path),
        encoder=encoder,
        length=LENGTH,
        shards=[{"file": shard.name, "samples": 6, "shape": list(SHAPE)}],
    )
    values = {
        "steps": 2,
        "batch_size": 4,
        "device": "cpu",
        "data": {"name": "encoded_pairs", "path": str(data)},
        "model": {"name": family, "path": str(path)},
        "objective": {"name": "rcgm", "order": 2, "label_dropout": label_dropout},
        "checkpoint": {"every": 2},
        "logging": {"tensorboard": False},
        "sample": {"every": 0},
        **changes,
    }
    train(parse_config(values), root / "run", show_progress=False)
    return root / "run"
