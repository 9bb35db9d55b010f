"""`rcgm derivatives`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rcgm.cli.arguments import add_device, numbers, positive, seed, words

SHORT = "measure how far the derivatives of a network can be trusted"

LESS_MEMORY = "make --batch-size smaller, or use --device cpu"

TEXT = """\
Compare each estimator and step of the derivative dF/dt along the path with the truth (forward-mode AD in float64, or
Richardson extrapolation where that does not run), in the number format of the run, by range of t. Say which
objectives can be trained with which: those that need dF/dt (mean_flow, improved_mean_flow, tim, scm, decm, facm, ucgm
at ratio 1), and those that divide differences of predictions by a gap (rcgm, consistency, ucgm).

A network that is trained from scratch changes nowhere before it is trained, so check one that is trained.

example:
  rcgm derivatives --run runs/digits
  rcgm derivatives --run runs/digits precision=bfloat16 --formats run,float16 --plot errors.png --json errors.json
  rcgm derivatives configs/tuned.yaml     a network that begins from other weights"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="YAML file, for the initial weights of a run")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="settings to change")
    parser.add_argument("--run", type=Path, metavar="RUN_DIR", help="folder of a run, instead of CONFIG")
    parser.add_argument("--checkpoint", type=int, metavar="STEP", help="step of the checkpoint (default: the newest)")
    parser.add_argument(
        "--weights", choices=("ema", "student"), default="ema", help="averaged weights or those of the last step"
    )
    parser.add_argument(
        "--formats", type=words, default=("run",), metavar="run,...",
        help="number formats: run, float32, tf32, bfloat16, float16 (default: run, that of its target forwards)",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=numbers, metavar="0.005,...", help="steps of the estimators (default: 0.001 to 0.1)"
    )
    parser.add_argument(
        "--ranges", type=positive, default=4, metavar="N", help="ranges of t of equal length (default: %(default)s)"
    )
    parser.add_argument(
        "--count", type=positive, default=16, metavar="N", help="samples in each range, even (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=positive, default=64, metavar="N", help="samples at a time (default: %(default)s)"
    )
    parser.add_argument("--plot", type=Path, metavar="PNG", help="picture of error against step to write")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for all numbers")
    parser.add_argument("--seed", type=seed, default=0, help="of noise and times (default: %(default)s)")
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    from rcgm.inspection.derivatives.command import run as check

    return check(options)
