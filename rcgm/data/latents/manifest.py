"""What the encode command writes down about a folder of latents, for those who read it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from rcgm.data.latents.moments import Moments

MANIFEST = "manifest.json"
PAIRS = "encoded_pairs"
"""Value of the key ``format`` in a manifest of images with captions, which one of other latents does not have."""
SHARD_STEM = "latents_shard"
STATISTICS = "latents_stats"
"""Name, without its suffix, of the file with the mean and standard deviation of each channel."""


@dataclass(frozen=True)
class Manifest:
    """The part of a manifest that a reader needs.

    Attributes:
        moments: how the latents are stored; see `Moments`.
        class_names: by label; empty without classes.
        samples: how many there are, over all shards.
    """

    moments: Moments
    class_names: tuple[str, ...]
    samples: int


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, or None where there is none.

    Raises:
        ValueError: it is damaged, lacks what is needed, or is still to be written.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if next(folder.glob(f"{SHARD_STEM}*.json"), None) is not None:
            raise ValueError(f"{folder} has shards and no {MANIFEST} yet: run the encode command to its end")
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") == PAIRS:
            raise ValueError("it is of images with captions: set data.name to encoded_pairs")
        manifest = Manifest(content["moments"], tuple(content["classes"]), content["samples"])
        if type(manifest.samples) is not int or not all(isinstance(name, str) for name in content["classes"]):
            raise TypeError("samples must be an integer, and classes a list of names")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"cannot read the manifest {path}: {error!r}") from error
    if manifest.moments not in get_args(Moments):
        raise ValueError(f"moments in {path} must be one of {', '.join(get_args(Moments))}, got {manifest.moments!r}")
    return manifest
