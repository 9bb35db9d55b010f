"""`rcgm encode`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rcgm.cli.arguments import add_device, colour, fraction, from_zero, positive, positive_number, seed

SHORT = "turn images into latents, and their captions into text states"

LESS_MEMORY = "make --batch-size smaller"

TEXT = """\
Turn a folder of images, one sub-folder a class, into shards of latents and their statistics; or with --text, images
with captions into shards of latents and text states.

Images are cropped and resized as for ADM and DiT. The autoencoder is a folder in the layout of diffusers, with
safetensors weights: an AutoencoderKL (SD-VAE, VA-VAE) or an AutoencoderDC (DC-AE). Shards that are there and whole
are kept, so that the same command goes on after a stop; those with an image of another size or time of change are
encoded again.

example:
  rcgm encode imagenet/train latents --autoencoder sd-vae-ft-ema --size 256
  torchrun --nproc_per_node=8 -m rcgm.cli encode imagenet/train latents --autoencoder sd-vae-ft-ema --size 256

Then train on it: data={name: latents, path: latents}

Images with captions, for a published text-to-image network: a folder with metadata.jsonl or a .txt beside each image,
webdataset tar files, or parquet files. --text is the folder of the pipeline in the layout of diffusers, or its name on
the hub. Pairs that cannot be used are counted, and named in left_out.jsonl.

example:
  rcgm encode photos pairs --text Sana_600M_512px_diffusers --family sana --size 512

Then train on it: data={name: encoded_pairs, path: pairs}"""

FOR_IMAGES = {"autoencoder": None, "store": None, "no_flips": False, "broken": "error", "seed": 0}
"""Options that images without captions alone have, with their defaults."""
FOR_PAIRS = {
    "family": None, "source": "auto", "image_key": None, "caption_key": None, "condition_encoder": None,
    "length": None, "buckets": "aspect", "multiple": None, "largest_ratio": 2.0, "max_upscale": 1.0,
    "text_dtype": "bfloat16", "max_bad": 0.01,
}  # fmt: skip
"""The same of images with captions."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", type=Path, metavar="IMAGES", help="folder of images, one sub-folder a class, or images with captions"
    )
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder for the shards")
    parser.add_argument("--autoencoder", type=Path, metavar="DIR", help="config.json and *.safetensors")
    parser.add_argument(
        "--size", type=positive, required=True, metavar="N",
        help="crop and resize images to N by N pixels, or to about as many (--buckets)",
    )  # fmt: skip
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
        "--shard-size", type=positive, metavar="N", help="images a file (default: 10000, with captions 1000)"
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
    _add_pair_arguments(parser.add_argument_group("images with captions"))


def run(options: argparse.Namespace) -> int:
    given, others = ("--text", FOR_IMAGES) if options.text is not None else ("--autoencoder", FOR_PAIRS)
    for name, default in others.items():
        if getattr(options, name) != default:
            raise ValueError(f"--{name.replace('_', '-')} must be left out with {given}")
    if options.text is None:
        if options.autoencoder is None:
            raise ValueError("--autoencoder must be given, or --text for images with captions")
        from rcgm.encoding.command import run as encode_images

        return encode_images(options)
    if options.family is None:
        raise ValueError("--family must be given with --text, such as sana")
    from rcgm.encoding.pairs.command import run as encode_pairs

    return encode_pairs(options)


def _add_pair_arguments(group: argparse._ArgumentGroup) -> None:
    def add(flag: str, help: str, **options: Any) -> None:
        default = FOR_PAIRS.get(flag[2:].replace("-", "_"))
        group.add_argument(
            flag, help=help if default is None else f"{help} (default: {default})", default=default, **options
        )

    dtypes = ("float16", "bfloat16", "float32")
    add(
        "--text",
        "pipeline whose text encoders and autoencoder are used: a folder, or a name on the hub",
        metavar="PATH",
    )
    add("--family", "of the pipeline, such as sana: see docs/text_to_image.md", metavar="NAME")
    add("--source", "what IMAGES holds", choices=("auto", "folder", "webdataset", "parquet"))
    add("--image-key", "key or column of the image (default: file_name, or a column of a usual name)", metavar="NAME")
    add("--caption-key", "key or column of the caption (default: text, or one of a usual name)", metavar="NAME")
    add("--condition-encoder", "your own function of captions, instead of the text encoders", metavar="MODULE:FUNCTION")
    add("--length", "tokens of a caption (default: as the pipeline has them)", type=positive, metavar="N")
    add("--buckets", "shapes of images: one for each ratio of sides, squares alone, or each image's own resolution",
        choices=("aspect", "square", "native"))  # fmt: skip
    add("--multiple", "of height and width (default: what the network needs)", type=positive, metavar="N")
    add("--largest-ratio", "of the longer side to the shorter one", type=positive_number, metavar="X")
    add("--max-upscale", "factor by which an image may be enlarged; smaller ones are left out", type=positive_number,
        metavar="X")  # fmt: skip
    add("--text-dtype", "to store text states", choices=dtypes)
    add("--max-bad", "part of the pairs that may be unusable", type=fraction, metavar="X")
