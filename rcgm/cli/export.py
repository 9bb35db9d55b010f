"""`rcgm export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rcgm.cli.arguments import add_checkpoint
from rcgm.cli.runs import load

SHORT = "write a trained model to one file or a folder"

LESS_MEMORY = "use --device cpu"

TEXT = """\
Write the weights of a run to one safetensors file, with the names of the network's state_dict, however many
processes trained it. A name that does not end in .safetensors is a folder: it gets config.json and
model.safetensors, which rcgm.models.load_pretrained reads.

The folder of a network of diffusers has its layout: transformer/, with LoRA added to the weights, and the embedding
of the interval beside it.

example:
  rcgm export runs/digits --output digits.safetensors
  rcgm export runs/digits --output digits
  rcgm export runs/sana --output sana_few_step --whole
  rcgm export runs/sana_lora --output few_step_lora --lora"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("model.safetensors"),
        metavar="PATH",
        help="file .safetensors, or new folder, to write (default: %(default)s)",
    )
    parser.add_argument(
        "--lora", action="store_true", help="write adapters alone, a folder that load_lora_weights of diffusers takes"
    )
    parser.add_argument(
        "--whole", action="store_true", help="copy the other parts of the pipeline of diffusers to the folder, too"
    )


def run(options: argparse.Namespace) -> int:
    from rcgm.runs.export import export_run

    print(export_run(load(options), options.output, lora=options.lora, whole=options.whole))
    return 0
