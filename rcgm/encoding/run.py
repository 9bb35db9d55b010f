"""Encoding all shards of a plan, alone or as one of several ranks."""

from __future__ import annotations

import collections
import json
from typing import Any

import torch
from torch import Tensor

from rcgm.data.latents.manifest import MANIFEST, STATISTICS
from rcgm.encoding.filling import fill_shards
from rcgm.encoding.plan import Plan
from rcgm.encoding.record import whole_records
from rcgm.encoding.shard import Shard
from rcgm.encoding.statistics import ChannelStatistics
from rcgm.files import write_atomically


def encode_shards(plan: Plan, **how: Any) -> int:
    """Write the shards of this rank that are not there yet, or whose images have changed.

    Args:
        plan: what to encode.
        how: ``batch_size`` and the other options of :func:`~rcgm.encoding.filling.fill_shards`, which is what this is.

    Returns:
        How many shards were written.

    Raises:
        TypeError, ValueError: as there; an image cannot be read, or its latents are not finite.
    """
    return fill_shards(plan, plan.images, lambda number: Shard(plan, number), collate=_images, **how)


def write_manifest(plan: Plan) -> ChannelStatistics:
    """Write the manifest and the statistics of a plan whose shards are all there, and return the statistics.

    Raises:
        ValueError: a shard is missing; or, when all is written, a channel is constant and so cannot be normalised.
    """
    records = whole_records(plan, "images")
    statistics = ChannelStatistics.empty(plan.autoencoder.latent_channels)
    for record in records:
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
