"""Arguments that commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "add_checkpoint",
    "add_device",
    "add_sampling",
    "classes",
    "colour",
    "from_zero",
    "numbers",
    "positive",
    "seed",
    "size",
    "sizes",
    "words",
]


class _Samplers:
    """The names of samplers, looked up when somebody asks for them: it takes an import of torch."""

    def __iter__(self) -> Iterator[str]:
        from rcgm.sampling import SAMPLERS

        return iter(("auto", *SAMPLERS))

    def __contains__(self, name: object) -> bool:
        return name in tuple(self)


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Which network to use: a run, a step of it, and its weights."""
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="folder of a run, such as runs/digits")
    parser.add_argument("--checkpoint", type=int, metavar="STEP", help="step of the checkpoint (default: the newest)")
    parser.add_argument(
        "--weights",
        choices=("ema", "student"),
        default="ema",
        help="averaged weights or those of the last step (default: ema)",
    )
    add_device(parser)


def add_sampling(parser: argparse.ArgumentParser, *, count: int, counted: str = "") -> None:
    """Which network, and how to draw samples with it.

    Args:
        parser: of the command.
        count: samples by default.
        counted: what the default is in words, where the command decides; it then gets None.
    """
    add_checkpoint(parser)
    parser.add_argument(
        "--steps",
        type=_step_counts,
        default=(1, 2, 4),
        metavar="1,2,4",
        help="numbers of sampling steps (default: 1,2,4)",
    )
    parser.add_argument(
        "--count",
        type=positive,
        default=None if counted else count,
        metavar="N",
        help=f"samples for each number of steps (default: {count}{counted})",
    )
    parser.add_argument(
        "--sampler", choices=_Samplers(), default="auto", metavar="NAME",
        help="one of %(choices)s (default: auto, the sampler that the objective of the run trains for)",
    )  # fmt: skip
    parser.add_argument(
        "--guidance", type=_finite, default=1.0, metavar="W", help="guidance scale while sampling (default: 1, none)"
    )
    parser.add_argument(
        "--decoder", metavar="DIR", help="autoencoder that decodes samples of latents (default: that of the run)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the noise (default: %(default)s)")


def _integers(text: str, lowest: int) -> tuple[int, ...]:
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or min(values) < lowest:
        raise argparse.ArgumentTypeError(f"needs whole numbers of at least {lowest}, separated by commas, got {text!r}")
    return values


def _step_counts(text: str) -> tuple[int, ...]:
    return _integers(text, 1)


def classes(text: str) -> tuple[int, ...]:
    return _integers(text, 0)


def _single(text: str, lowest: int) -> int:
    values = _integers(text, lowest)
    if len(values) != 1:
        raise argparse.ArgumentTypeError(f"needs one whole number, got {text!r}")
    return values[0]


def positive(text: str) -> int:
    return _single(text, 1)


def from_zero(text: str) -> int:
    return _single(text, 0)


def seed(text: str) -> int:
    value = _single(text, 0)
    if value >= 2**64:
        raise argparse.ArgumentTypeError(f"needs a whole number below 2^64, got {text!r}")
    return value


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"needs a finite number, got {text!r}")
    return value


def fraction(text: str) -> float:
    value = _finite(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"needs a number from 0 to 1, got {text!r}")
    return value


def positive_number(text: str) -> float:
    value = _finite(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"needs a number above 0, got {text!r}")
    return value


def colour(text: str) -> tuple[int, int, int]:
    """Red, green and blue, as in ``255,255,255``."""
    values = _integers(text, 0)
    if len(values) != 3 or max(values) > 255:
        raise argparse.ArgumentTypeError(f"needs three numbers from 0 to 255, separated by commas, got {text!r}")
    return values


def words(text: str) -> tuple[str, ...]:
    """Words separated by commas."""
    return tuple(part.strip() for part in text.split(","))


def size(text: str) -> tuple[int, int]:
    """Height and width, as in ``512x768``."""
    values = _integers(text.replace("x", ","), 1)
    if len(values) != 2:
        raise argparse.ArgumentTypeError(f"needs height and width, as in 512x768, got {text!r}")
    return values[0], values[1]


def sizes(text: str) -> tuple[int, ...]:
    """Whole numbers of at least 1, separated by commas."""
    return _integers(text, 1)


def numbers(text: str) -> tuple[float, ...]:
    """Finite numbers separated by commas."""
    return tuple(_finite(part) for part in text.split(","))
