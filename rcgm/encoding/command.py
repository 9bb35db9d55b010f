"""`rcgm encode`, also under torchrun."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed
from tqdm import tqdm

from rcgm.data import ImageFolder, describe_data
from rcgm.distributed.device import choose_device
from rcgm.encoding.plan import Plan
from rcgm.encoding.run import encode_shards, write_manifest
from rcgm.models.autoencoders import load_autoencoder

LONGEST_WAIT = timedelta(days=30)
"""For the slowest rank: ranks may differ by hours, and torchrun ends them all where one fails."""


def run(options: argparse.Namespace) -> int:
    """Run the command; see `rcgm encode --help`. Returns the exit code."""
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if options.device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
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
    if rank == 0:
        print("\n".join(describe_data(images, values=False)), file=sys.stderr)
    plan = Plan(
        images,
        options.output,
        autoencoder,
        options.size,
        stored=options.store,
        flips=not options.no_flips,
        dtype=options.dtype,
        shard_size=options.shard_size,
        seed=options.seed,
    )
    mine = sum(len(plan.members(number)) for number in range(rank, plan.shards, world_size))
    with _group(world_size) as wait, tqdm(total=mine, unit=" images", disable=rank != 0) as bar:
        written = encode_shards(
            plan,
            batch_size=options.batch_size,
            workers=options.workers,
            rank=rank,
            world_size=world_size,
            on_images=bar.update,
            force=options.force,
        )
        bar.close()
        wait()
        if rank == 0:
            write_manifest(plan)
            what = "moments" if plan.moments != "none" else "latents"
            shape = " x ".join(map(str, plan.sample_shape))
            mine_of = f"{written} of {plan.shards} written" + (" by this rank" if world_size > 1 else "")
            print(f"{len(plan.images)} images to {what} of {shape}, {plan.shards} shards ({mine_of}), in {plan.output}")
    return 0


@contextlib.contextmanager
def _group(world_size: int) -> Iterator:
    """Gives a function that waits for all ranks."""
    if world_size == 1:
        yield lambda: None
        return
    torch.distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
    try:
        yield torch.distributed.barrier
    finally:
        torch.distributed.destroy_process_group()
