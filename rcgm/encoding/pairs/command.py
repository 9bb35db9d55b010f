"""`rcgm encode --text`, also under torchrun."""

from __future__ import annotations

import argparse
import itertools
import sys

from tqdm import tqdm

from rcgm.data.text.layout import shape_text
from rcgm.distributed.device import choose_device
from rcgm.distributed.ranks import running_ranks
from rcgm.encoding.buckets import Buckets
from rcgm.encoding.pairs.encoder import load_encoder
from rcgm.encoding.pairs.plan import PairPlan
from rcgm.encoding.pairs.run import REPORT, encode_pairs, write_pair_manifest, write_report
from rcgm.encoding.pairs.survey import LeftOut, share_of, survey
from rcgm.encoding.progress import encode_with_bar
from rcgm.encoding.sources import open_source

__all__ = ["run"]

SHARD_SIZE = 1000
SHAPES_IN_LINE = 8


def run(options: argparse.Namespace) -> int:
    """Run the command; see `rcgm encode --help`. Returns the exit code."""
    with running_ranks(options.device) as ranks:
        main = ranks.rank == 0
        source = open_source(
            options.images, options.source, image_key=options.image_key, caption_key=options.caption_key
        )
        encoder = load_encoder(
            options.family,
            options.text,
            condition_encoder=options.condition_encoder,
            length=options.length,
            device=choose_device(options.device),
            dtype=options.precision,
        )
        multiple = options.multiple or encoder.multiple
        if multiple % encoder.multiple:
            raise ValueError(
                f"--multiple must be a multiple of {encoder.multiple}, as the network needs, got {multiple}"
            )
        buckets = Buckets(options.size, multiple, options.buckets, options.largest_ratio, options.max_upscale)
        mine = share_of(len(source), ranks.rank, ranks.world_size)
        with tqdm(total=len(mine), unit=" pairs", desc="sizes", disable=not main) as bar:
            own = survey(source, buckets, mine, bar.update)
        surveyed = list(itertools.chain.from_iterable(ranks.gathered(own)))
        if main:
            write_report(source, options.output, [one for one in surveyed if isinstance(one, LeftOut)], [])
        plan = PairPlan(
            source,
            options.output,
            encoder,
            buckets,
            surveyed,
            dtype=options.dtype,
            text_dtype=options.text_dtype,
            shard_size=options.shard_size or SHARD_SIZE,
            max_bad=options.max_bad,
            background=options.background,
        )
        if main:
            print("\n".join(_description(plan)), file=sys.stderr)
        written = encode_with_bar(encode_pairs, plan, ranks, options, "pairs")
        if main:
            manifest = write_pair_manifest(plan)
            print(f"{manifest['samples']:,} pairs in {plan.shards:,} shards ({written}), in {plan.output}")
            missing = sum(manifest["left_out"].values())
            if missing or manifest["truncated"]:
                report = plan.output / REPORT
                print(f"{missing:,} left out, {manifest['truncated']:,} captions cut: see {report}")
    return 0


def _description(plan: PairPlan) -> list[str]:
    counts = sorted(plan.counts.items(), key=lambda item: -item[1])
    shapes = "; ".join(f"{shape_text(shape)}: {count:,}" for shape, count in counts[:SHAPES_IN_LINE])
    more = f"; and {len(counts) - SHAPES_IN_LINE:,} more shapes" if len(counts) > SHAPES_IN_LINE else ""
    small = sum(not one.is_bad for one in plan.left_out)
    bad = len(plan.left_out) - small
    return [
        f"pairs: {len(plan.source):,}, {bad:,} of them unusable and {small:,} with images that are too small",
        f"shapes in pixels: {shapes}{more}",
        *plan.source.notes,
    ]
