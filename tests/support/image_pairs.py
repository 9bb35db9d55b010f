"""Folders of small images with captions, and the command that encodes them."""

import json
import shutil

import numpy as np
from PIL import Image

from rcgm.cli import main

COUNT, SIZE = 12, 16


def write_images(root, count=COUNT):
    """Tall and wide images by turns, larger than their shapes, with captions of different lengths."""
    root.mkdir(parents=True)
    lines = []
    for number in range(count):
        size = (24, 40) if number % 3 else (40, 24)
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number:02d}.png")
        lines.append({"file_name": f"{number:02d}.png", "text": f"picture {'very ' * (number % 4)}number {number}"})
    write_list(root, lines)
    return lines


def write_list(root, lines):
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")


def arguments(pipelines, images, output, *more, family="sana"):
    return [
        "encode", str(images), str(output), "--text", str(pipelines / family), "--family", family, "--size", str(SIZE),
        "--batch-size", "3", "--shard-size", "3", "--text-dtype", "float32", "--device", "cpu", *more,
    ]  # fmt: skip


def encode(*given, **options):
    assert main(arguments(*given, **options)) == 0


def copied(encoded, tmp_path):
    shutil.copytree(encoded, tmp_path / "copy")
    return tmp_path / "copy/images", tmp_path / "copy/out"


def written(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("text_shard*.safetensors")}
