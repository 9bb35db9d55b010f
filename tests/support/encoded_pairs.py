"""Folders of encoded pairs, written in the format of ``rcgm encode --text`` from random numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rcgm.data.text.layout import captions_path, packed_text

LENGTH, WIDTH, POOLED = 5, 6, 3
SHAPES = ((4, 4, 6), (4, 6, 4))


def condition(
    rows: int, seed: int, *, masked: bool = True, pooled: int = POOLED, width: int = WIDTH
) -> dict[str, Tensor]:
    """Conditions of ``rows`` captions, of 1 to ``LENGTH`` words; states are 0 behind the last one."""
    generator = torch.Generator().manual_seed(seed)
    cond = {"text": torch.randn(rows, LENGTH, width, generator=generator)}
    if masked:
        lengths = 1 + (torch.arange(rows) + seed) % LENGTH
        cond["mask"] = torch.arange(LENGTH) < lengths[:, None]
        cond["text"] *= cond["mask"][..., None]
    if pooled:
        cond["pooled"] = torch.randn(rows, pooled, generator=generator)
    return cond


def write_pairs(
    folder: Path,
    shards: Sequence[tuple[tuple[int, int, int], int]] = ((SHAPES[0], 9), (SHAPES[1], 7), (SHAPES[0], 4)),
    *,
    dtype: torch.dtype = torch.float32,
    **options: int,
) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Write shards of so many samples of these shapes; returns latents and conditions of each."""
    folder.mkdir(parents=True, exist_ok=True)
    entries, contents = [], []
    for number, (shape, rows) in enumerate(shards):
        generator = torch.Generator().manual_seed(100 + number)
        latents = torch.randn(rows, *shape, generator=generator).to(dtype)
        cond = condition(rows, number, **options)
        stored = {name: value if value.dtype == torch.bool else value.to(dtype) for name, value in cond.items()}
        path = folder / f"text_shard{number:05d}.safetensors"
        save_file({"latents": latents, **packed_text(stored)}, path)
        names = [f"caption {number}.{row}" for row in range(rows)]
        captions_path(path).write_text(json.dumps({"captions": names, "images": [f"{name}.png" for name in names]}))
        entries.append({"file": path.name, "samples": rows, "shape": list(shape)})
        contents.append(
            (
                latents.float(),
                {name: value.float() if value.is_floating_point() else value for name, value in stored.items()},
            )
        )
    save_file(condition(1, 50, **options), folder / "null.safetensors")
    write_manifest(folder, shards=entries)
    return contents


def write_manifest(folder: Path, **changes: object) -> None:
    """A manifest of these shards; ``changes`` replace keys."""
    plain = {
        "format": "encoded_pairs", "version": 1, "family": "sana", "pipeline": "somewhere/sana", "encoder": "",
        "length": 5,
        "shards": [],
        "left_out": {"image is broken": 2, "caption is empty": 0}, "truncated": 1,
    }  # fmt: skip
    known = json.loads((folder / "manifest.json").read_text()) if (folder / "manifest.json").exists() else plain
    (folder / "manifest.json").write_text(json.dumps({**known, **changes}))
