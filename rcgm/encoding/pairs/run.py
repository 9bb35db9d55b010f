"""Encoding all shards of a plan of pairs, alone or as one of several ranks."""

from __future__ import annotations

import collections
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from rcgm.data.latents.manifest import MANIFEST, PAIRS
from rcgm.data.text.layout import MASKS, NULL_FILE
from rcgm.data.text.manifest import VERSION
from rcgm.encoding.filling import fill_shards
from rcgm.encoding.pairs.plan import PairPlan
from rcgm.encoding.pairs.reading import PairReader
from rcgm.encoding.pairs.shard import PairShardWriter
from rcgm.encoding.pairs.survey import LeftOut, check_limit
from rcgm.encoding.record import whole_records
from rcgm.encoding.sources import PairSource, Reason
from rcgm.files import write_atomically

__all__ = ["REPORT", "encode_pairs", "write_pair_manifest", "write_report"]

REPORT = "left_out.jsonl"
"""File with a line for each pair that was left out, or whose caption was cut."""


def encode_pairs(plan: PairPlan, **how: Any) -> int:
    """Write the shards of this rank that are not there yet, or whose pairs have changed.

    Args:
        plan: what to encode.
        how: ``batch_size`` and the other options of :func:`~rcgm.encoding.filling.fill_shards`, which is what this is.

    Returns:
        How many shards were written.

    Raises:
        TypeError, ValueError: as there; or more pairs turn out to be unusable than the plan allows.
    """
    left_out = list(plan.left_out)

    def check(found: list[LeftOut]) -> None:
        left_out.extend(found)
        check_limit(plan.source, left_out, plan.max_bad)

    return fill_shards(plan, PairReader(plan), lambda number: PairShardWriter(plan, number, check), collate=list, **how)


def write_pair_manifest(plan: PairPlan) -> dict[str, Any]:
    """Write the report, the conditions of the empty caption, and the manifest of a plan whose shards are all there.

    Returns:
        The manifest.

    Raises:
        ValueError: a shard is missing; or more pairs were unusable than the plan allows, after the report is written.
    """
    records = whole_records(plan, "pairs")
    found = [LeftOut(index, Reason[name], detail) for record in records for index, name, detail in record.left_out]
    left_out = sorted([*plan.left_out, *found], key=lambda one: one.index)
    cut = sorted(index for record in records for index in record.cut)
    write_report(plan.source, plan.output, left_out, cut)
    check_limit(plan.source, left_out, plan.max_bad)
    dtype = getattr(torch, plan.text_dtype)
    null = {name: value if name in MASKS else value.to(dtype) for name, value in plan.encoder.null().items()}
    write_atomically(plan.output / NULL_FILE, save({name: value.contiguous() for name, value in null.items()}))
    reasons = collections.Counter(one.reason.value for one in left_out)
    channels, factor = plan.encoder.latent_channels, plan.encoder.factor
    pipeline = plan.encoder.pipeline
    manifest = {
        "format": PAIRS,
        "version": VERSION,
        "family": pipeline.family,
        "pipeline": pipeline.path,
        "encoder": plan.encoder.name,
        "length": plan.encoder.length,
        **{name: value for name, value in plan.settings.items() if name not in ("encoder", "buckets")},
        "encoder_settings": plan.settings["encoder"],
        "bucket_settings": plan.settings["buckets"],
        "settings": plan.fingerprint,
        "samples": sum(record.samples for record in records),
        "left_out": dict(reasons),
        "truncated": len(cut),
        "shards": [
            {
                "file": record.file,
                "samples": record.samples,
                "shape": [channels, *(side // factor for side in plan.shape(number))],
                "sha256": record.sha256,
            }
            for number, record in enumerate(records)
            if record.samples
        ],
    }
    write_atomically(plan.output / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return manifest


def write_report(source: PairSource, output: Path, left_out: list[LeftOut], cut: list[int]) -> None:
    """Name the pairs that are left out, and those whose caption is cut, one JSON object a line."""
    lines = [
        *({"pair": source.name(one.index), "reason": one.reason.value, "detail": one.detail} for one in left_out),
        *({"pair": source.name(index), "reason": "the caption was cut", "detail": ""} for index in cut),
    ]
    write_atomically(output / REPORT, "".join(json.dumps(line) + "\n" for line in lines))
