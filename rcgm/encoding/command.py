"""`rcgm encode` of images without captions, also under torchrun."""

from __future__ import annotations

import argparse
import sys

import torch

from rcgm.data import ImageFolder, describe_data
from rcgm.distributed.device import choose_device
from rcgm.distributed.ranks import running_ranks
from rcgm.encoding.plan import Plan
from rcgm.encoding.progress import encode_with_bar
from rcgm.encoding.run import encode_shards, write_manifest
from rcgm.models.autoencoders import load_autoencoder

SHARD_SIZE = 10_000


def run(options: argparse.Namespace) -> int:
    """Run the command; see `rcgm encode --help`. Returns the exit code."""
    with running_ranks(options.device) as ranks:
        autoencoder = load_autoencoder(
            options.autoencoder, device=choose_device(options.device), dtype=getattr(torch, options.precision)
        )
        if autoencoder.in_channels not in (1, 3):
            raise ValueError(f"{options.autoencoder} takes {autoencoder.in_channels} channels; images have 1 or 3")
        images = ImageFolder(
            options.images,
            options.size,
            autoencoder.in_channels,
            resize="adm",
            broken=options.broken,
            background=options.background,
        )
        if ranks.rank == 0:
            print("\n".join(describe_data(images, values=False)), file=sys.stderr)
        plan = Plan(
            images,
            options.output,
            autoencoder,
            options.size,
            stored=options.store,
            flips=not options.no_flips,
            dtype=options.dtype,
            shard_size=options.shard_size or SHARD_SIZE,
            seed=options.seed,
        )
        written = encode_with_bar(encode_shards, plan, ranks, options, "images")
        if ranks.rank == 0:
            write_manifest(plan)
            what = "moments" if plan.moments != "none" else "latents"
            shape = " x ".join(map(str, plan.sample_shape))
            print(f"{len(plan.images)} images to {what} of {shape}, {plan.shards} shards ({written}), in {plan.output}")
    return 0
