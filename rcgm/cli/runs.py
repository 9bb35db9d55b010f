"""Runs that commands open."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rcgm.runs import LoadedRun
    from rcgm.runs.conditions import Captions
    from rcgm.runs.decoding import Decoder

__all__ = ["captions_of", "decoder_of", "load"]


def load(options: argparse.Namespace) -> LoadedRun:
    """The run that `add_checkpoint`'s arguments name."""
    from rcgm.distributed import choose_device
    from rcgm.runs import load_run

    return load_run(options.run, device=choose_device(options.device), step=options.checkpoint, weights=options.weights)


def decoder_of(run: LoadedRun, options: argparse.Namespace) -> Decoder | None:
    """What turns samples into images, if they are latents that somebody wants decoded."""
    from rcgm.runs.decoding import Decoder

    path = options.decoder or run.config.sample.decoder
    return None if path is None else Decoder(path, run.info, run.device)


def captions_of(run: LoadedRun) -> Captions | None:
    """The captions of the data of a run, if its network takes text."""
    from rcgm.config import build_dataset_from
    from rcgm.runs.conditions import DataCaptions

    return None if run.info.text is None else DataCaptions(build_dataset_from(run.config))
