"""Encoding all shards of a plan, alone or as one of several ranks."""

from __future__ import annotations

import collections
import json
from collections.abc import Callable, Iterator

import torch
from torch.utils.data import DataLoader

from rcgm.checks import whole_number
from rcgm.data.latents.manifest import MANIFEST, STATISTICS
from rcgm.encoding.plan import Plan
from rcgm.encoding.record import Record, missing_shards, read_record, shard_path
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
    batch_size = whole_number("batch_size", batch_size, 1)
    whole_number("workers", workers, 0)
    missing = missing_shards(plan, rank, world_size, force=force)
    if on_images is not None:
        for number in range(rank, plan.shards, world_size):
            if number not in missing:
                on_images(len(plan.members(number)))
    batches = iter(
        DataLoader(
            plan.images,
            batch_sampler=list(_batches(plan, missing, batch_size)),  # type: ignore[arg-type]
            num_workers=workers,
            generator=torch.Generator(),
        )
    )
    for number in missing:
        shard, full = Shard(plan, number), False
        while not full:
            images, _ = next(batches)
            full = shard.add(images)
            if on_images is not None:
                on_images(len(images))
        shard.write()
    return len(missing)


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


def _batches(plan: Plan, shards: list[int], size: int) -> Iterator[list[int]]:
    for number in shards:
        members = plan.members(number)
        for start in range(0, len(members), size):
            yield list(members[start : start + size])
