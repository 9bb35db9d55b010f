"""`rcgm encode`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rcgm.cli.arguments import add_device, colour, from_zero, positive, seed

SHORT = "turn a folder of images into latents"

LESS_MEMORY = "make --batch-size smaller"

TEXT = """\
Turn a folder of images, one sub-folder a class, into shards of latents and their statistics.

Images are cropped and resized as for ADM and DiT. The autoencoder is a folder in the layout of diffusers, with
safetensors weights: an AutoencoderKL (SD-VAE, VA-VAE) or an AutoencoderDC (DC-AE). Shards that are there and whole
are kept, so that the same command goes on after a stop; those with an image of another size or time of change are
encoded again.

example:
  rcgm encode imagenet/train latents --autoencoder sd-vae-ft-ema --size 256
  torchrun --nproc_per_node=8 -m rcgm.cli encode imagenet/train latents --autoencoder sd-vae-ft-ema --size 256

Then train on it: data={name: latents, path: latents}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of images, one sub-folder a class")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder for the shards")
    parser.add_argument("--autoencoder", type=Path, required=True, metavar="DIR", help="config.json and *.safetensors")
    parser.add_argument(
        "--size", type=positive, required=True, metavar="N", help="crop and resize images to N by N pixels"
    )
    parser.add_argument(
        "--store", choices=("moments", "samples"),
        help="what to keep of a Gaussian: itself, drawn from in training, or one draw (default: moments)",
    )  # fmt: skip
    parser.add_argument("--no-flips", action="store_true", help="do not encode the mirrored images too")
    parser.add_argument(
        "--dtype", choices=("float16", "bfloat16", "float32"), default="float32",
        help="to store (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="to compute in (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=positive, default=32, metavar="N", help="images at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--shard-size", type=positive, default=10_000, metavar="N", help="images a file (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=from_zero, default=0, metavar="N", help="processes that read images (default: %(default)s)"
    )
    parser.add_argument(
        "--broken", choices=("error", "leave_out"), default="error",
        help="images that cannot be decoded: stop, or decode all first and leave those out (default: error)",
    )  # fmt: skip
    parser.add_argument(
        "--background", type=colour, default=(255, 255, 255), metavar="R,G,B",
        help="what transparent images are put on, each 0 to 255 (default: white)",
    )  # fmt: skip
    parser.add_argument(
        "--force", action="store_true", help="encode all again, also where the shards are of other images or settings"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the draws (default: %(default)s)")
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    from rcgm.encoding.command import run as encode

    return encode(options)
