"""The command line: ``rcgm train``, ``sample``, ``evaluate``, ``export``, ``encode`` and ``info``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rcgm.training import LoadedRun
    from rcgm.training.decoding import Decoder
    from rcgm.training.generation import Method

__all__ = ["main"]

# Everything that takes time to import is imported by the command that needs it, so that --help comes at once.

SAMPLERS = ("auto", "any_step", "consistency", "euler", "heun", "mix", "ucgm", "ucgm_multi")
TRAINING_PACKAGES = {
    "PIL",
    "diffusers",
    "matplotlib",
    "pydantic",
    "safetensors",
    "sklearn",
    "tensorboard",
    "tqdm",
    "yaml",
}
OPTIONAL_PACKAGES = {"torch_fidelity", "wandb"}
"""Packages of extras of their own; what needs one says what to install."""

DESCRIPTION = """\
Train generative models that sample in one, two or a few steps.

  rcgm train configs/digits.yaml          train; everything is kept in runs/digits
  rcgm sample runs/digits --steps 1,2,4   draw samples with the trained network
  rcgm evaluate runs/digits               measure how good the samples are
  rcgm encode images latents ...          turn a folder of images into latents to train on
  rcgm export runs/digits                 the network as one safetensors file, or as a folder
  rcgm info                               what is installed, and which kernels will run

'rcgm COMMAND --help' explains a command and gives an example."""

TRAIN = """\
Train the run that a configuration file describes.

Any setting of the file can be changed on the command line by its dotted name. The folder of the run then holds
the resolved configuration, checkpoints, metrics.jsonl, a TensorBoard log, the loss curve, samples drawn
while training and, at the end, summary.json.

example:
  rcgm train configs/digits.yaml optimizer.lr=5e-4 objective.order=1 --output runs/order1

From a frozen teacher, the network of another run:
  rcgm train configs/digits.yaml objective.supervision=teacher teacher.run=runs/flow --output runs/distilled

On several GPUs, or in several processes (docs/distributed.md):
  torchrun --nproc_per_node=8 -m rcgm.cli train configs/digits.yaml

Ctrl-C stops after the step at hand and saves it; so does SIGTERM. Then, or after a crash:
  rcgm train configs/digits.yaml optimizer.lr=5e-4 objective.order=1 --output runs/order1 --resume"""

SAMPLE = """\
Draw samples with the network of a run, in each of the given numbers of steps from the same noise.

example:
  rcgm sample runs/digits --steps 1,2,4 --count 80 --classes 3,7 --output samples.png --npz samples.npz

The arrays of the .npz are named steps_1, steps_2, ... and labels. Latents are as the autoencoder gives them, with the
normalisation of the data undone; where they are decoded, images_1, ... hold the images, in [-1, 1]."""

EVALUATE = """\
Measure the samples of a run and print the numbers as JSON, by number of steps.

Points: squared MMD and Frechet distance, with the floor that real points reach. Digits: accuracy of a classifier on
the classes that were asked for, Frechet distance, distance to the nearest training image. Other images, with the
weights of the Inception network (docs/evaluation.md): FID, Inception Score, precision and recall.

example:
  rcgm evaluate runs/digits --steps 1,2,4 --count 2000
  torchrun --nproc_per_node=8 -m rcgm.cli evaluate runs/imagenet --features inception.pth --reference real.npz \\
    --steps 1,2 --count 50000"""

ENCODE = """\
Turn a folder of images, one sub-folder a class, into shards of latents and their statistics.

Images are cropped and resized as for ADM and DiT. The autoencoder is a folder in the layout of diffusers, with
safetensors weights: an AutoencoderKL (SD-VAE, VA-VAE) or an AutoencoderDC (DC-AE). Shards that are there and whole
are kept, so that the same command goes on after a stop.

example:
  rcgm encode imagenet/train latents --autoencoder sd-vae-ft-ema --size 256
  torchrun --nproc_per_node=8 -m rcgm.cli encode imagenet/train latents --autoencoder sd-vae-ft-ema --size 256

Then train on it: data={name: latents, path: latents}"""

EXPORT = """\
Write the weights of a run to one safetensors file, under the names of the network's own state_dict, whether one
process trained it or many; or, where the name does not end in .safetensors, to a folder of config.json and
model.safetensors, which rcgm.models.load_pretrained reads.

example:
  rcgm export runs/digits --output digits.safetensors
  rcgm export runs/digits --output digits"""

INFO = """\
Show what is installed here and which kernels will run. Paste it into bug reports.

example:
  rcgm info"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; ``arguments`` without the program's name, by default those of the process.

    Returns:
        The exit code: 0; 1 where training diverged or another process of it is gone; 2 for an error of the user's; 130
        where training was stopped.
    """
    options = _parse(arguments)
    try:
        return options.command(options)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in OPTIONAL_PACKAGES and not options.traceback:
            return _fail(str(error))
        if options.traceback or package not in TRAINING_PACKAGES:
            raise
        extra = "encode" if package == "diffusers" else "train"
        return _fail(f"this command needs the package '{package}': pip install 'rcgm[{extra}]'")
    except KeyboardInterrupt:
        return _fail("interrupted", code=130)
    except (ValueError, TypeError, OSError) as error:
        if options.traceback:
            raise
        return _fail(str(error))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest:
        # argparse gives up on positional words after an option: 'train CONFIG --resume steps=10' ends here.
        if not hasattr(options, "overrides") or any(word.startswith("-") for word in rest):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        options.overrides += rest
    return options


def _fail(message: str, code: int = 2) -> int:
    rank = os.environ.get("RANK")
    where = "" if rank is None else f" in process {rank}"
    print(f"rcgm: error{where}: {' '.join(message.split())}", file=sys.stderr)
    return code


def _train(options: argparse.Namespace) -> int:
    from rcgm.config import load_config
    from rcgm.parallel import ProcessLostError
    from rcgm.plots import steps_title
    from rcgm.training import NonFiniteError, TrainingInterrupted, train

    config = load_config(options.config, options.overrides)
    output = options.output or Path("runs") / Path(options.config).stem
    first = os.environ.get("RANK", "0") == "0"
    try:
        summary = train(config, output, resume=options.resume)
    except (NonFiniteError, ProcessLostError) as error:
        if options.traceback:
            raise
        return _fail(str(error), code=1)
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


def _sample(options: argparse.Namespace) -> int:
    from rcgm import plots
    from rcgm.training.decoding import to_stored
    from rcgm.training.generation import Request, generate
    from rcgm.training.randomness import Purpose

    run = _load(options)
    decode = _decoder(run, options)
    request = Request(
        run.info,
        options.count,
        seed=options.seed,
        purpose=Purpose.SAMPLING,
        conditional=run.conditional,
        classes=options.classes,
    )
    samples = {
        number: generate(
            run.network,
            request,
            steps=number,
            device=run.device,
            method=_method(run, options),
            seed=options.seed,
            guidance=options.guidance,
            autocast=run.autocast,
        )
        for number in options.steps
    }
    pictures = samples if decode is None else {number: decode(tensor) for number, tensor in samples.items()}
    figure = plots.sample_panels(
        {plots.steps_title(number): tensor for number, tensor in pictures.items()},
        labels=request.labels,
        value_range=run.info.value_range if decode is None else (-1.0, 1.0),
        class_names=run.info.class_names,
    )
    plots.save_figure(options.output, figure)
    print(options.output)
    if options.npz is not None:
        arrays = {f"steps_{number}": to_stored(tensor, run.info) for number, tensor in samples.items()}
        if decode is not None:
            arrays |= {f"images_{number}": tensor for number, tensor in pictures.items()}
        if request.labels is not None:
            arrays["labels"] = request.labels
        _write_npz(options.npz, arrays)
        print(options.npz)
    return 0


def _write_npz(path: Path, tensors: dict) -> None:
    import io

    import numpy as np

    from rcgm.files import write_atomically

    stream = io.BytesIO()
    np.savez_compressed(stream, **{name: tensor.numpy() for name, tensor in tensors.items()})
    write_atomically(path, stream.getvalue())


def _evaluate(options: argparse.Namespace) -> int:
    import json

    from rcgm.config import build_dataset_from
    from rcgm.evaluation import write_reference
    from rcgm.parallel import running_processes
    from rcgm.training.image_measure import ImageMeasure
    from rcgm.training.measures import build_measure, measure_steps
    from rcgm.training.progress import counting

    with running_processes(options.device) as processes:
        run = _load(options)
        dataset = build_dataset_from(run.config)
        given = {name: getattr(options, name) for name in ("features", "reference", "batch_size")}
        settings = run.config.evaluate.model_copy(
            update={name: value for name, value in given.items() if value is not None}
        )
        if options.save_reference is not None and settings.features is None:
            raise ValueError("--save-reference needs --features")
        decode = _decoder(run, options)
        measure = build_measure(dataset, settings, device=run.device, decode=decode, processes=processes)
        if measure is None:
            raise ValueError(
                f"there is no measure for the data '{run.config.data.name}': give --features for FID, or sample to an "
                ".npz and use your own"
            )
        if options.save_reference is not None and isinstance(measure, ImageMeasure):
            reference = measure.reference()
            if reference is not None:
                write_reference(options.save_reference, reference)
        with counting(options.count * len(options.steps), "samples", enabled=processes.first) as count:
            report = measure_steps(
                measure,
                run.network,
                dataset,
                steps=options.steps,
                count=options.count,
                guidance=options.guidance,
                seed=options.seed,
                device=run.device,
                method=_method(run, options),
                autocast=run.autocast,
                on_chunk=count,
                processes=processes,
            )
    if not processes.first:
        return 0
    print(json.dumps({"run": str(options.run), "checkpoint": run.step, "steps": report}, indent=2))
    return 0


def _export(options: argparse.Namespace) -> int:
    from rcgm.training.export import export_run

    print(export_run(_load(options), options.output))
    return 0


def _method(run: LoadedRun, options: argparse.Namespace) -> Method:
    from rcgm.config import build_objective_from
    from rcgm.training.generation import method_of

    return method_of(build_objective_from(run.config), options.sampler)


def _decoder(run: LoadedRun, options: argparse.Namespace) -> Decoder | None:
    from rcgm.training.decoding import Decoder

    path = options.decoder or run.config.sample.decoder
    return None if path is None else Decoder(path, run.info, run.device)


def _encode(options: argparse.Namespace) -> int:
    from rcgm.encoding.command import run

    return run(options)


def _info(options: argparse.Namespace) -> int:
    from rcgm_kernels.__main__ import main as describe_kernels

    return describe_kernels() or 0


def _load(options: argparse.Namespace) -> LoadedRun:
    from rcgm.training import choose_device, load_run

    return load_run(options.run, device=choose_device(options.device), step=options.checkpoint, weights=options.weights)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rcgm", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    train = _command(commands, "train", "train a model from a configuration file", TRAIN, _train)
    train.add_argument("config", metavar="CONFIG", help="YAML file, such as configs/digits.yaml")
    train.add_argument(
        "overrides", metavar="key=value", nargs="*", help="settings to change, such as optimizer.lr=5e-4"
    )
    train.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of the run (default: runs/ and CONFIG's name)"
    )
    train.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in the folder")

    sample = _command(commands, "sample", "draw samples with a trained model", SAMPLE, _sample)
    _add_run(sample, count=80)
    sample.add_argument("--classes", type=_classes, metavar="0,1,..", help="classes to draw, in turn (default: all)")
    sample.add_argument(
        "--output",
        type=Path,
        default=Path("samples.png"),
        metavar="PNG",
        help="picture to write (default: %(default)s)",
    )
    sample.add_argument("--npz", type=Path, metavar="NPZ", help="also write the samples as numpy arrays")

    evaluate = _command(commands, "evaluate", "measure the samples of a trained model", EVALUATE, _evaluate)
    _add_run(evaluate, count=2000)
    evaluate.add_argument(
        "--features", metavar="FILE", help="weights of the Inception network (default: those of the run's settings)"
    )
    evaluate.add_argument(
        "--reference", metavar="FILE", help="statistics of real images, .npz or .safetensors (default: of the data)"
    )
    evaluate.add_argument(
        "--save-reference", type=Path, metavar="FILE", help="write the statistics of the data to a .safetensors file"
    )
    evaluate.add_argument("--batch-size", type=_positive, metavar="N", help="images that are judged at a time")

    export = _command(commands, "export", "write a trained model to one file or a folder", EXPORT, _export)
    _add_checkpoint(export)
    export.add_argument(
        "--output",
        type=Path,
        default=Path("model.safetensors"),
        metavar="PATH",
        help="file .safetensors, or new folder, to write (default: %(default)s)",
    )

    _command(commands, "info", "show what is installed and which kernels will run", INFO, _info)

    encode = _command(commands, "encode", "turn a folder of images into latents", ENCODE, _encode)
    encode.add_argument("images", type=Path, metavar="IMAGES", help="folder of images, one sub-folder a class")
    encode.add_argument("output", type=Path, metavar="OUTPUT", help="folder for the shards")
    encode.add_argument("--autoencoder", type=Path, required=True, metavar="DIR", help="config.json and *.safetensors")
    encode.add_argument(
        "--size", type=_positive, required=True, metavar="N", help="crop and resize images to N by N pixels"
    )
    encode.add_argument(
        "--store", choices=("moments", "samples"),
        help="what to keep of a Gaussian: itself, drawn from in training, or one draw (default: moments)",
    )  # fmt: skip
    encode.add_argument("--no-flips", action="store_true", help="do not encode the mirrored images too")
    encode.add_argument(
        "--dtype", choices=("float16", "bfloat16", "float32"), default="float32",
        help="to store (default: %(default)s)",
    )  # fmt: skip
    encode.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="to compute in (default: %(default)s)"
    )
    encode.add_argument(
        "--batch-size", type=_positive, default=32, metavar="N", help="images at a time (default: %(default)s)"
    )
    encode.add_argument(
        "--shard-size", type=_positive, default=10_000, metavar="N", help="images a file (default: %(default)s)"
    )
    encode.add_argument(
        "--workers", type=_seed, default=0, metavar="N", help="processes that read images (default: %(default)s)"
    )
    encode.add_argument("--seed", type=_seed, default=0, help="of the draws (default: %(default)s)")
    encode.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")
    return parser


def _command(
    commands: argparse._SubParsersAction, name: str, short: str, text: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=short, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--traceback", action="store_true", help="show where in the program an error came from")
    parser.set_defaults(command=run)
    return parser


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="folder of a run, such as runs/digits")
    parser.add_argument("--checkpoint", type=int, metavar="STEP", help="step of the checkpoint (default: the newest)")
    parser.add_argument(
        "--weights", choices=("ema", "student"), default="ema", help="averaged weights or the last ones (default: ema)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")


def _add_run(parser: argparse.ArgumentParser, *, count: int) -> None:
    _add_checkpoint(parser)
    parser.add_argument(
        "--steps", type=_step_counts, default=(1, 2, 4), metavar="1,2,4", help="numbers of steps (default: 1,2,4)"
    )
    parser.add_argument(
        "--count", type=_positive, default=count, metavar="N", help="samples for each (default: %(default)s)"
    )
    parser.add_argument(
        "--sampler", choices=SAMPLERS, default="auto",
        help="how to sample (default: auto, the sampler that the objective of the run trains for)",
    )  # fmt: skip
    parser.add_argument(
        "--guidance", type=float, default=1.0, metavar="W", help="guidance scale while sampling (default: 1, none)"
    )
    parser.add_argument(
        "--decoder", metavar="DIR", help="autoencoder that decodes samples of latents (default: that of the run)"
    )
    parser.add_argument("--seed", type=_seed, default=0, help="of the noise (default: %(default)s)")


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


def _classes(text: str) -> tuple[int, ...]:
    return _integers(text, 0)


def _single(text: str, lowest: int) -> int:
    values = _integers(text, lowest)
    if len(values) != 1:
        raise argparse.ArgumentTypeError(f"needs one whole number, got {text!r}")
    return values[0]


def _positive(text: str) -> int:
    return _single(text, 1)


def _seed(text: str) -> int:
    return _single(text, 0)


if __name__ == "__main__":
    sys.exit(main())
