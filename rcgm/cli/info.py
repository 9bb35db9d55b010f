"""`rcgm info`."""

from __future__ import annotations

import argparse

SHORT = "show what is installed and which kernels will run"

LESS_MEMORY = "close other programs"

TEXT = """\
Show what is installed here and which kernels will run. Paste it into bug reports.

example:
  rcgm info"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def run(options: argparse.Namespace) -> int:
    from rcgm_kernels.__main__ import main as describe_kernels

    return describe_kernels() or 0
