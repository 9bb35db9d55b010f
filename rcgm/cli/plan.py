"""`rcgm plan`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rcgm.cli.arguments import positive, sizes

SHORT = "compute whether a run fits the memory of its GPUs"

LESS_MEMORY = "close other programs: the network itself takes none here"

TEXT = """\
Compute the peak memory of a training step by part, without a GPU and without weights: the step of the run is made on
tensors without content. Say whether it fits, the largest micro-batch that fits with each kind of activation
checkpointing, and which settings fit the batch of the configuration.

What FSDP gathers is computed from the sizes of the blocks. What a GPU's libraries take, and what operators take
inside, is not seen; a tenth of the memory is left for it.

example:
  rcgm plan configs/imagenet256_mean_flow_xl2.yaml --gpus 8 --memory 80 --shape 4,32,32 --classes 1000
  rcgm plan configs/digits.yaml batch_size=4096 --memory 24
  rcgm plan sana.yaml tune=lora --memory 24 --shape 32,32,32 --text 300,2304"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="YAML file, such as configs/digits.yaml")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="settings to change")
    parser.add_argument("--gpus", type=positive, default=1, metavar="N", help="GPUs (default: %(default)s)")
    parser.add_argument("--memory", type=positive, default=80, metavar="GIB", help="of each (default: %(default)s)")
    parser.add_argument(
        "--shape", type=sizes, metavar="C,H,W", help="of a sample, where the data are not here (default: the data's)"
    )
    parser.add_argument("--classes", type=positive, metavar="N", help="with --shape: of the data")
    parser.add_argument("--text", type=sizes, metavar="L,C", help="with --shape: tokens of a caption, their channels")
    parser.add_argument("--pooled", type=positive, metavar="C", help="with --text: channels of the pooled vector")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for all numbers")


def run(options: argparse.Namespace) -> int:
    from rcgm.inspection.memory.command import run as plan

    return plan(options)
