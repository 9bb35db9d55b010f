"""The data set: pictures with captions, as encoded pairs, and the network that trains on them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import SanaTransformer2DModel
from safetensors.torch import save_file

from benchmarks.captioned_digits.captions import ENCODER, WIDTH, encode
from benchmarks.captioned_digits.pictures import SHAPE, Painter, to_latents
from benchmarks.captioned_digits.scenes import KINDS, draw_prompt, draw_scene
from rcgm.data.latents.manifest import MANIFEST, PAIRS
from rcgm.data.text.layout import NULL_FILE, SHARD_STEM, captions_path, packed_text
from rcgm.data.text.manifest import VERSION

__all__ = ["NETWORK", "write_network", "write_pairs"]


NETWORK = {"depth": 4, "width": 128}
"""Blocks and width of the network."""


def write_pairs(folder: Path, count: int, seed: int = 0) -> None:
    """Write ``count`` pictures with captions, all kinds in turn, in the layout of ``rcgm encode --text``.

    There is no autoencoder: latents are the pictures, normalised.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    kinds = list(KINDS)
    prompts = [draw_prompt(kinds[number % len(kinds)], generator) for number in range(count)]
    scenes = []
    for number in range(count):
        scene = draw_scene(prompts[number], generator)
        while scene is None:  # every scene of the prompt is held out
            prompts[number] = draw_prompt(kinds[number % len(kinds)], generator)
            scene = draw_scene(prompts[number], generator)
        scenes.append(scene)
    captions = [prompt.caption for prompt in prompts]
    shard = folder / f"{SHARD_STEM}00000.safetensors"
    latents = to_latents(Painter().pictures(scenes, generator))
    save_file({"latents": latents, **packed_text(encode(captions))}, shard)
    names = [f"{number:06d}" for number in range(count)]
    captions_path(shard).write_text(json.dumps({"captions": captions, "images": names}), encoding="utf-8")
    save_file(encode([""]), folder / NULL_FILE)
    manifest = {
        "format": PAIRS,
        "version": VERSION,
        "family": "sana",
        "pipeline": "",
        "encoder": ENCODER,
        "length": None,
        "shards": [{"file": shard.name, "samples": count, "shape": list(SHAPE)}],
        "left_out": {},
        "truncated": 0,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def write_network(folder: Path, *, depth: int, width: int, seed: int = 0) -> None:
    """Write a small SANA with random weights, in diffusers' layout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = width // 16
        network = SanaTransformer2DModel(
            in_channels=SHAPE[0],
            out_channels=SHAPE[0],
            num_attention_heads=heads,
            attention_head_dim=16,
            num_layers=depth,
            num_cross_attention_heads=heads,
            cross_attention_head_dim=16,
            cross_attention_dim=width,
            caption_channels=WIDTH,
            mlp_ratio=2.0,
            sample_size=SHAPE[2],
            patch_size=2,
            interpolation_scale=1.0,  # with embeddings of the place: otherwise only convolutions at the edges tell it
        )
    network.save_pretrained(folder)
