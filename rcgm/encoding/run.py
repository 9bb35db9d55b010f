"""Encoding all shards of a plan, alone or as one of several ranks."""

from __future__ import annotations

import collections
import json
from collections.abc import Callable

import torch
from torch import Tensor

from rcgm.data.latents.manifest import MANIFEST, STATISTICS
from rcgm.encoding.filling import fill_shards
from rcgm.encoding.plan import Plan
from rcgm.encoding.record import Record, read_record, shard_path
from rcgm.encoding.shard import Shard
from rcgm.encoding.statistics import ChannelStatistics
from rcgm.files import write_atomically


def encode_shards(
    plan: Plan,
    *,
    batch_size: int,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    on_images: Callable[[int], None] | None = None,
    force: bool = False,
) -> int:
    """Write the shards of this rank that are not there yet, or whose images have changed: each `world_size`-th one.

    Args:
        plan: what to encode.
        batch_size: images that are encoded at a time.
        workers: processes that read images; 0 for this one.
        rank, world_size: which share of the shards this is, of how many.
        on_images: called with a number of images that have been encoded, or found in shards that are whole.
        force: write all of them, and remove those that another plan has left in the folder.

    Returns:
        How many shards were written.

    Raises:
        TypeError: a number is no integer.
        ValueError: a number is out of range, an image cannot be read, its latents are not finite, or the folder holds
            shards of another plan.
    """
    return fill_shards(
        plan,
        plan.images,
        lambda number: Shard(plan, number),
        batch_size=batch_size,
        workers=workers,
        rank=rank,
        world_size=world_size,
        force=force,
        on_items=on_images,
        collate=_images,
    )


def write_manifest(plan: Plan) -> ChannelStatistics:
    """Write the manifest and the statistics of a plan whose shards are all there, and return the statistics.

    Raises:
        ValueError: a shard is missing; or, when all is written, a channel is constant and so cannot be normalised.
    """
    records: list[Record] = []
    statistics = ChannelStatistics.empty(plan.autoencoder.latent_channels)
    for number in range(plan.shards):
        record = read_record(plan, number, verify=False)
        if record is None:
            raise ValueError(
                f"{shard_path(plan, number)} is missing or its images have changed: run the encode command again"
            )
        records.append(record)
        statistics = statistics.merged(ChannelStatistics.from_plain(record.statistics))
    counts = collections.Counter(plan.images.labels)
    manifest = {
        **plan.settings,
        "settings": plan.fingerprint,
        "samples": len(plan.images),
        "stored_shape": list(plan.sample_shape),
        "classes": list(plan.images.info.class_names),
        "class_counts": [counts[label] for label in range(plan.images.info.num_classes or 0)],
        "shards": [{"file": item.file, "samples": item.samples, "sha256": item.sha256} for item in records],
    }
    numbers = {"mean": statistics.mean.tolist(), "std": statistics.std.tolist(), "count": statistics.count}
    write_atomically(plan.output / f"{STATISTICS}.json", json.dumps(numbers, indent=2) + "\n")
    write_atomically(plan.output / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    constant = (statistics.std == 0).nonzero().flatten().tolist()
    if constant:
        raise ValueError(
            f"channels {constant} of the latents are the same for all images and have no scale: all is written, but "
            "training needs data.mean and data.std"
        )
    return statistics


def _images(items: list[tuple[Tensor, int | None]]) -> Tensor:
    return torch.stack([image for image, _ in items])
