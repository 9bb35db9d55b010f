"""`rcgm train`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rcgm.cli.errors import fail

SHORT = "train a model from a configuration file"

LESS_MEMORY = "make batch_size smaller or accumulate larger, or set parallel.activation_checkpointing=full"

TEXT = """\
Train the run that a configuration file describes.

Any setting of the file can be changed on the command line by its dotted name. The folder of the run holds the
resolved configuration, checkpoints, metrics.jsonl, a TensorBoard log, the loss curve, pictures of samples and, at
the end, summary.json.

example:
  rcgm train configs/digits.yaml optimizer.lr=5e-4 objective.order=1 --output runs/order1

With a frozen teacher, the network of another run:
  rcgm train configs/digits.yaml objective.supervision=teacher teacher.run=runs/flow --output runs/distilled

On several GPUs, or in several processes (docs/distributed.md):
  torchrun --nproc_per_node=8 -m rcgm.cli train configs/digits.yaml

Ctrl-C stops after the current step and saves a checkpoint; so do SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2. To resume,
also after a crash:
  rcgm train configs/digits.yaml optimizer.lr=5e-4 objective.order=1 --output runs/order1 --resume"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="YAML file, such as configs/digits.yaml")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", help="settings to change, such as optimizer.lr=5e-4"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of the run (default: runs/ and CONFIG's name)"
    )
    parser.add_argument("--resume", action="store_true", help="resume from the newest checkpoint in the folder")
    parser.add_argument(
        "--allow-change",
        action="append",
        default=[],
        metavar="KEY",
        help="with --resume: a setting that may differ from the run's, such as optimizer.lr or data.root",
    )


def run(options: argparse.Namespace) -> int:
    from rcgm.config import load_config
    from rcgm.distributed import ProcessLostError
    from rcgm.plots import steps_title
    from rcgm.training import NonFiniteError, TrainingInterrupted, train

    config = load_config(options.config, options.overrides)
    output = options.output or Path("runs") / Path(options.config).stem
    first = os.environ.get("RANK", "0") == "0"
    if options.allow_change and not options.resume:
        raise ValueError("--allow-change needs --resume: a new run takes any setting")
    try:
        summary = train(config, output, resume=options.resume, allow_changes=options.allow_change)
    except (NonFiniteError, ProcessLostError) as error:
        if options.traceback:
            raise
        return fail(str(error), code=1)
    except TrainingInterrupted as interruption:
        if first:
            print(f"rcgm: {interruption}", file=sys.stderr)
        return 130
    if not first:
        return 0
    print(f"{summary['steps']} steps in {summary['wall_time_seconds']:.0f} s, kept in {output}")
    for steps, measures in summary["evaluation"].items():
        print(f"  {steps_title(int(steps))}: " + ", ".join(f"{name} {value:.4g}" for name, value in measures.items()))
    return 0
