"""Prompts of `rcgm sample`: what is asked for, checked before anything is encoded, and folders of samples."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcgm.cli.arguments import size

if TYPE_CHECKING:
    from rcgm.runs.conditions import Captions
    from rcgm.runs.decoding import Decoder
    from rcgm.runs.loading import RunDescription
    from rcgm.runs.prompt_files import Prompt

__all__ = ["LAYOUTS", "PromptRequest", "add_prompt_arguments", "fill_folder", "has_prompts", "requested"]

LAYOUTS = ("flat", "geneval", "dpg")
"""As `rcgm.runs.layouts.LAYOUTS`, which takes an import of torch."""

NEEDS_PROMPTS = {
    "negative_prompt": "", "size": None, "pipeline": None, "condition_encoder": None, "layout": None, "force": False,
    "text_precision": "float32",
}  # fmt: skip
"""Options that are given with prompts alone, with their defaults."""
NOT_WITH_PROMPTS = ("classes", "data")

EACH = {None: 1, "flat": 1, "geneval": 4, "dpg": 4}
"""Samples of a prompt by default, by layout; of the benchmarks what they ask for."""
BATCH = 8
"""Samples, or prompts that are encoded, at a time by default: images are large."""


def add_prompt_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("prompts, for networks that take text")
    group.add_argument("--prompt", action="append", metavar="TEXT", help="draw samples of it; may be repeated")
    group.add_argument(
        "--prompts", type=Path, metavar="FILE",
        help="one prompt a line; GenEval's metadata (.jsonl); DPG-Bench's folder of .txt files, or its .csv",
    )  # fmt: skip
    group.add_argument(
        "--negative-prompt", default="", metavar="TEXT",
        help="that --guidance leads away from (default: the empty prompt)",
    )  # fmt: skip
    group.add_argument("--size", type=size, metavar="HxW", help="of the images in pixels (default: that of the data)")
    group.add_argument(
        "--layout", choices=LAYOUTS,
        help="make --output a folder with an image a file: 00000.png, ... (flat), or as GenEval or DPG-Bench read it",
    )  # fmt: skip
    group.add_argument("--force", action="store_true", help="replace samples of other settings in the folder")
    group.add_argument(
        "--pipeline", metavar="PATH", help="of the text encoders and autoencoder (default: that of the data)"
    )
    group.add_argument(
        "--condition-encoder", metavar="MODULE:FUNCTION",
        help="your own function that encoded the captions of the data; it is imported",
    )  # fmt: skip
    group.add_argument(
        "--text-precision", choices=("float32", "bfloat16"), default="float32",
        help="of the text encoders (default: %(default)s)",
    )  # fmt: skip


def has_prompts(options: argparse.Namespace) -> bool:
    """Whether prompts are given.

    Raises:
        ValueError: options are given that do not go together.
    """
    given = options.prompt is not None or options.prompts is not None
    if options.prompt is not None and options.prompts is not None:
        raise ValueError("--prompts must be left out with --prompt")
    if given:
        for name in NOT_WITH_PROMPTS:
            if getattr(options, name):
                raise ValueError(f"--{name} must be left out with prompts")
    else:
        for name, default in NEEDS_PROMPTS.items():
            if getattr(options, name) != default:
                raise ValueError(f"--{name.replace('_', '-')} must be left out without --prompt or --prompts")
    return given


@dataclass(frozen=True)
class PromptRequest:
    """What is to be drawn, found to be possible.

    Args:
        options: of the command.
        run: without its network.
        prompts: at least one.
        each: samples of a prompt.
        decode: from latents to images.
        size: height and width of the latents.
        batch_size: samples, or prompts that are encoded, at a time.
    """

    options: argparse.Namespace
    run: RunDescription
    prompts: Sequence[Prompt]
    each: int
    decode: Decoder
    size: tuple[int, int]
    batch_size: int

    @property
    def pipeline(self) -> str:
        """Path of the text encoders and autoencoder."""
        return self.options.pipeline or self.run.info.text.pipeline

    def captions(self, numbers: Sequence[int], *, verbose: bool = True) -> Captions:
        """The prompts of these numbers, encoded. The text encoders are loaded for it, and freed afterwards."""
        import torch

        from rcgm.distributed import choose_device
        from rcgm.encoding.pairs import load_condition_encoder
        from rcgm.networks.pipelines import TextPipeline
        from rcgm.runs import PromptCaptions
        from rcgm.runs.progress import counting

        text, options = self.run.info.text, self.options
        if options.condition_encoder is not None:
            encoder = load_condition_encoder(options.condition_encoder)
        else:
            encoder = TextPipeline.from_pretrained(
                text.family, self.pipeline, dtype=options.text_precision, device=choose_device(options.device),
                parts=("text",), length=text.length,
            )  # fmt: skip
        with counting(len(numbers), " prompts", enabled=verbose) as advance:
            captions = PromptCaptions(
                encoder, [self.prompts[number].text for number in numbers], each=self.each,
                negative=options.negative_prompt, numbers=numbers, batch_size=self.batch_size, on_batch=advance,
            )  # fmt: skip
        if captions.cut:
            print(
                f"rcgm: prompts that are cut to the {encoder.length} tokens that the text encoders take: "
                f"{len(captions.cut):,}, the first {captions.cut[0][:200]!r}",
                file=sys.stderr,
            )
        del encoder
        gc.collect()  # parts of a pipeline may refer to one another
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return captions

    def settings(self) -> dict[str, Any]:
        """What the samples follow from, beside the prompts."""
        options = self.options
        names = ("weights", "steps", "sampler", "guidance", "negative_prompt", "seed", "text_precision")
        return {
            "checkpoint_sha256": self.run.sha256,
            **{name: getattr(options, name) for name in names},
            "latent_size": self.size,
            "pipeline": self.pipeline,
            "decoder": options.decoder,
            "condition_encoder": options.condition_encoder,
        }


def requested(options: argparse.Namespace) -> PromptRequest:
    """Check what is asked for, and load the autoencoder: neither text encoders nor network are loaded yet.

    Raises:
        FileNotFoundError, ValueError: no prompts, a run without text, guidance that it was not trained for, a size that
            the pipeline does not have, or no such pipeline.
    """
    from rcgm.distributed import choose_device
    from rcgm.runs.decoding import Decoder
    from rcgm.runs.guidance import check_guidance
    from rcgm.runs.loading import describe_run
    from rcgm.runs.prompt_files import Prompt, read_prompts

    run = describe_run(options.run, step=options.checkpoint)
    text = run.info.text
    if text is None:
        raise ValueError(f"prompts must be left out for a run without captions, got '{options.run}'")
    if options.prompt is not None:
        if not all(prompt.strip() for prompt in options.prompt):
            raise ValueError("--prompt must be a text, got a blank one")
        prompts = [Prompt(prompt) for prompt in options.prompt]
    else:
        prompts = read_prompts(options.prompts)
    check_guidance(run.config, options.guidance, captioned=True)
    if options.negative_prompt and options.guidance == 1:
        raise ValueError("--negative-prompt must be left out without guidance: set --guidance to another scale than 1")
    if text.encoder and options.condition_encoder is None:
        raise ValueError(
            f"--condition-encoder must be given: the captions of the data were encoded by {text.encoder!r}, a function "
            f"that is imported only if you say so, by --condition-encoder {text.encoder}"
        )
    if not text.encoder and options.condition_encoder is not None:
        raise ValueError("--condition-encoder must be left out: the pipeline encoded the captions of the data")
    path = options.decoder or run.config.sample.decoder or options.pipeline or text.pipeline
    try:
        decode = Decoder(path, run.info, choose_device(options.device))
    except ValueError as error:
        if path != text.pipeline:
            raise
        raise ValueError(f"{error}; --pipeline says where the pipeline of the data is now") from error
    each = EACH[options.layout] if options.count is None else options.count
    size = _latent_size(options.size, decode, run)
    return PromptRequest(options, run, prompts, each, decode, size, options.batch_size or BATCH)


def fill_folder(options: argparse.Namespace) -> int:
    """Fill the folder of a layout, together with the other processes of torchrun. Returns the exit code."""
    from rcgm.cli.runs import load
    from rcgm.distributed.ranks import running_ranks
    from rcgm.runs.layouts import SampleFolder
    from rcgm.runs.progress import counting

    if len(options.steps) != 1:
        raise ValueError(f"--steps must be one number with --layout, got {','.join(map(str, options.steps))}")
    if options.npz is not None:
        raise ValueError("--npz must be left out with --layout")
    if options.output.suffix.lower() == ".png":
        raise ValueError(f"--output must be a folder with --layout, got '{options.output}'")
    with running_ranks(options.device) as ranks:
        request = requested(options)
        if options.layout == "dpg" and request.size[0] != request.size[1]:
            pixels = [side * request.decode.factor for side in request.size]
            raise ValueError(f"--size must be a square for the layout dpg, got {pixels[0]}x{pixels[1]}")
        folder = SampleFolder(options.output, options.layout, request.prompts, request.each, request.settings())
        folder.check(force=options.force)
        ranks.wait()  # every process has looked at the folder before one of them writes
        if ranks.rank == 0:
            folder.begin()
        ranks.wait()
        # shared out by number: which samples are missing changes as soon as a process begins
        mine = folder.missing(range(ranks.rank, len(request.prompts), ranks.world_size))
        if mine:
            captions = request.captions(mine, verbose=ranks.rank == 0)
            options.checkpoint = request.run.step  # there may be a newer one by now
            sampler = load(options).sampler(
                options.sampler, guidance=options.guidance, seed=options.seed, captions=captions, size=request.size
            )
            count = len(mine) * request.each
            with counting(count, " images", enabled=ranks.rank == 0) as advance:
                for start in range(0, count, request.batch_size):
                    rows = range(start, min(start + request.batch_size, count))
                    images = request.decode(sampler(rows, steps=options.steps[0]))
                    for row, image in zip(rows, images, strict=True):
                        folder.write(mine[row // request.each], row % request.each, image)
                    advance(len(rows))
        ranks.wait()
        if ranks.rank == 0:
            print(options.output)
    return 0


def _latent_size(pixels: tuple[int, int] | None, decode: Decoder, run: RunDescription) -> tuple[int, int]:
    if pixels is None:
        return run.info.shape[-2:]
    if any(side % decode.multiple for side in pixels):
        raise ValueError(
            f"--size must be of multiples of {decode.multiple} pixels for this pipeline, got {pixels[0]}x{pixels[1]}"
        )
    return pixels[0] // decode.factor, pixels[1] // decode.factor
