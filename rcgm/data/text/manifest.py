"""What the encode command writes down about a folder of encoded pairs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcgm.checks import whole_number
from rcgm.data.latents.manifest import MANIFEST, PAIRS
from rcgm.data.text.layout import SHARD_STEM

__all__ = ["VERSION", "Manifest", "ShardEntry", "read_manifest"]

VERSION = 1
SHARD_NAME = re.compile(rf"{SHARD_STEM}\d+\.safetensors")


@dataclass(frozen=True)
class ShardEntry:
    """A shard: the name of its file, its samples, and the shape ``(C, H, W)`` of each."""

    file: str
    samples: int
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Manifest:
    """The part of a manifest that a reader needs.

    Attributes:
        family, pipeline, encoder, length: see `rcgm.data.TextInfo`.
        shards: in order.
        left_out: why pairs were left out, and how many.
        truncated: captions that were longer than the encoder takes.
    """

    family: str
    pipeline: str
    encoder: str
    length: int | None
    shards: tuple[ShardEntry, ...]
    left_out: dict[str, int]
    truncated: int


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of encoded pairs.

    Raises:
        ValueError: there is none, it is of something else, is damaged, or lacks what is needed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if next(folder.glob(f"{SHARD_STEM}*.safetensors"), None) is not None:
            raise ValueError(f"{folder} has shards and no {MANIFEST} yet: run the encode command to its end")
        raise ValueError(
            f"path must be a folder with a {MANIFEST}, as `rcgm encode --text` writes it, got {str(folder)!r}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = content.get("format")
        if kind == PAIRS:
            return _checked(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"cannot read the manifest {path}: {error!r}") from error
    raise ValueError(f"{path} must be of encoded pairs, got one of latents without captions: set data.name to latents")


def _checked(content: dict[str, Any]) -> Manifest:
    whole_number("version", content["version"], 1)
    if content["version"] > VERSION:
        raise ValueError(f"version must be at most {VERSION}, got {content['version']}: it is of a later rcgm")
    shards = tuple(_entry(entry) for entry in content["shards"])
    if not shards or len({entry.file for entry in shards}) != len(shards):
        raise ValueError("shards must be a list of different files, at least one")
    family, pipeline, encoder = (_text(content, name) for name in ("family", "pipeline", "encoder"))
    length = None if content["length"] is None else whole_number("length", content["length"], 1)
    left_out = {
        str(reason): whole_number(f"left_out[{reason!r}]", count, 0) for reason, count in content["left_out"].items()
    }
    return Manifest(
        family, pipeline, encoder, length, shards, left_out, whole_number("truncated", content["truncated"], 0)
    )


def _entry(entry: dict[str, Any]) -> ShardEntry:
    file = _text(entry, "file")
    if not SHARD_NAME.fullmatch(file):  # a path could lead out of the folder
        raise ValueError(f"file must be {SHARD_STEM}NUMBER.safetensors, got {file!r}")
    shape = tuple(whole_number("each size in shape", size, 1) for size in entry["shape"])
    if len(shape) != 3:
        raise ValueError(f"shape must be [C, H, W], got {list(shape)}")
    return ShardEntry(file, whole_number("samples", entry["samples"], 1), shape)


def _text(content: dict[str, Any], name: str) -> str:
    if not isinstance(content[name], str):
        raise TypeError(f"{name} must be a text, got {content[name]!r}")
    return content[name]
