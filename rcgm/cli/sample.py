"""`rcgm sample`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from rcgm.cli.arguments import add_sampling, classes, positive
from rcgm.cli.prompts import add_prompt_arguments, fill_folder, has_prompts, requested
from rcgm.cli.runs import captions_of, decoder_of, load

if TYPE_CHECKING:
    import torch

    from rcgm.runs import LoadedRun, RunSampler
    from rcgm.runs.decoding import Decoder

SHORT = "draw samples with a trained model"

LESS_MEMORY = "make --count or --batch-size smaller, or use --device cpu"

COUNT = 80
"""Samples by default, without prompts."""

TEXT = """\
Draw samples with the network of a run, in each given number of steps from the same noise. A sample depends only on
the seed and its number, not on --count.

example:
  rcgm sample runs/digits --steps 1,2,4,32 --count 20 --data --output samples.png
  rcgm sample runs/digits --steps 1 --count 80 --classes 3,7 --npz samples.npz

The samples of a network that takes text have the first captions of its data, which are written under them; or prompts
of yours, of which each has --count samples. The seed, the prompt's place and the number among its samples make the
noise of a sample. With --layout, a stopped command goes on where it stopped, and processes of torchrun share the
prompts.

example:
  rcgm sample runs/sana --prompt "a red cube" --prompt "two dogs" --steps 2
  rcgm sample runs/sana --prompts evaluation_metadata.jsonl --steps 2 --layout geneval --output geneval_2_steps

The arrays of the .npz are steps_1, steps_2, ... and labels. Latents are stored as the autoencoder gives them, without
the normalisation of the data. If they are decoded, images_1, ... hold the images, in [-1, 1]."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sampling(parser, count=COUNT, counted="; of each prompt 1, or 4 for GenEval and DPG-Bench")
    parser.add_argument("--classes", type=classes, metavar="0,1,..", help="classes to draw, in turn (default: all)")
    parser.add_argument("--data", action="store_true", help="also draw samples of the data, of the same classes")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("samples.png"),
        metavar="PNG",
        help="picture to write, or with --layout the folder (default: %(default)s)",
    )
    parser.add_argument("--npz", type=Path, metavar="NPZ", help="also write the samples as numpy arrays")
    parser.add_argument(
        "--batch-size", type=positive, metavar="N",
        help="samples at a time (default: 512; 32 with captions of the data, 8 with prompts)",
    )  # fmt: skip
    add_prompt_arguments(parser)


def run(options: argparse.Namespace) -> int:
    prompted = has_prompts(options)
    if options.layout is not None:
        return fill_folder(options)
    _check_output("--output", options.output, ".png")
    if options.npz is not None:
        _check_output("--npz", options.npz, ".npz")
    from rcgm import plots
    from rcgm.runs.decoding import to_stored

    if prompted:
        run, sampler, decode, count, batch_size = _with_prompts(options)
    else:
        batch_size = options.batch_size
        run = load(options)
        count = COUNT if options.count is None else options.count
        decode = decoder_of(run, options)
        sampler = run.sampler(
            options.sampler,
            guidance=options.guidance,
            seed=options.seed,
            classes=options.classes,
            captions=captions_of(run),
        )
    labels = sampler.labels(range(count))
    samples = {number: sampler.draw(count, steps=number, largest=batch_size) for number in options.steps}
    pictures = samples if decode is None else {number: decode(tensor) for number, tensor in samples.items()}
    shown = {plots.steps_title(number): tensor for number, tensor in pictures.items()}
    real = _of_the_data(run, labels, count) if options.data else None
    if real is not None and run.info.kind == "images":
        shown["data"] = real if decode is None else decode(real)
    figure = plots.sample_panels(
        shown,
        labels=labels,
        reference=real if run.info.kind == "points" else None,
        value_range=run.info.value_range if decode is None else (-1.0, 1.0),
        class_names=run.info.class_names,
        captions=sampler.texts(range(count)),
    )
    plots.save_figure(options.output, figure)
    print(options.output)
    if options.npz is not None:
        arrays = {f"steps_{number}": to_stored(tensor, run.info) for number, tensor in samples.items()}
        if decode is not None:
            arrays |= {f"images_{number}": tensor for number, tensor in pictures.items()}
        if labels is not None:
            arrays["labels"] = labels
        _write_npz(options.npz, arrays)
        print(options.npz)
    return 0


def _with_prompts(options: argparse.Namespace) -> tuple[LoadedRun, RunSampler, Decoder, int, int]:
    """The run, what makes its samples of the prompts, what decodes them, how many there are, and how many at a time."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("--layout must be given with several processes: one picture is made by one")
    request = requested(options)
    captions = request.captions(range(len(request.prompts)))
    options.checkpoint = request.run.step  # there may be a newer one by now
    run = load(options)
    sampler = run.sampler(
        options.sampler, guidance=options.guidance, seed=options.seed, captions=captions, size=request.size
    )
    return run, sampler, request.decode, len(captions), request.batch_size


def _check_output(option: str, path: Path, suffix: str) -> None:
    if path.is_dir():
        raise ValueError(f"{option} must be a file, got the folder '{path}'")
    if path.suffix.lower() != suffix:
        raise ValueError(f"{option} must end in {suffix}, got '{path}'")


def _of_the_data(run: LoadedRun, labels: torch.Tensor | None, count: int) -> torch.Tensor:
    from rcgm.config import build_dataset_from
    from rcgm.data import examples

    return examples(build_dataset_from(run.config), count, labels)


def _write_npz(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    import io

    import numpy as np

    from rcgm.files import write_atomically

    stream = io.BytesIO()
    np.savez_compressed(stream, **{name: tensor.numpy() for name, tensor in tensors.items()})
    write_atomically(path, stream.getvalue())
