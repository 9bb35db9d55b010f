"""`rcgm evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rcgm.cli.arguments import add_sampling, positive
from rcgm.cli.runs import captions_of, decoder_of, load

SHORT = "measure the samples of a trained model"

LESS_MEMORY = "make --batch-size or --count smaller, or use --device cpu"

TEXT = """\
Measure the samples of a run and print the numbers as JSON, by number of steps.

Points: squared MMD and Frechet distance, with the floor that real points reach. Digits: accuracy of a classifier on
the classes that were asked for, Frechet distance, distance to the nearest training image. Other images: the same, with
a classifier trained on your labels and the Frechet distance of principal components; with the weights of the Inception
network (docs/evaluation.md) FID, Inception Score, precision and recall.

example:
  rcgm evaluate runs/digits --steps 1,2,4 --count 2000
  torchrun --nproc_per_node=8 -m rcgm.cli evaluate runs/imagenet --features inception.pth --reference real.npz \\
    --steps 1,2 --count 50000"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sampling(parser, count=2000)
    parser.add_argument(
        "--features", metavar="FILE", help="weights of the Inception network (default: those of the run's settings)"
    )
    parser.add_argument(
        "--reference", metavar="FILE", help="statistics of real images, .npz or .safetensors (default: of the data)"
    )
    parser.add_argument(
        "--save-reference", type=Path, metavar="FILE", help="write the statistics of the data to a .safetensors file"
    )
    parser.add_argument("--batch-size", type=positive, metavar="N", help="images that are judged at a time")


def run(options: argparse.Namespace) -> int:
    import json

    from rcgm.config import build_dataset_from
    from rcgm.distributed import running_processes
    from rcgm.runs.measures import build_measure, measure_steps
    from rcgm.runs.progress import counting
    from rcgm.seeds import Purpose

    with running_processes(options.device) as processes:
        run = load(options)
        dataset = build_dataset_from(run.config)
        given = {name: getattr(options, name) for name in ("features", "reference", "batch_size")}
        settings = run.config.evaluate.model_copy(
            update={name: value for name, value in given.items() if value is not None}
        )
        if options.save_reference is not None and settings.features is None:
            raise ValueError("--save-reference must be left out without --features")
        sampler = run.sampler(
            options.sampler,
            guidance=options.guidance,
            seed=options.seed,
            purpose=Purpose.EVALUATION,
            captions=captions_of(run),
            processes=processes,
        )
        measure = build_measure(
            dataset,
            settings,
            device=run.device,
            decode=decoder_of(run, options),
            processes=processes,
            save_reference=options.save_reference,
        )
        if measure is None:
            raise ValueError(
                f"there is no measure for the data '{run.config.data.name}': give --features for FID, or sample to an "
                ".npz and use your own"
            )
        with counting(options.count * len(options.steps), "samples", enabled=processes.is_main) as count:
            report = measure_steps(measure, sampler, steps=options.steps, count=options.count, on_chunk=count)
    if not processes.is_main:
        return 0
    print(json.dumps({"run": str(options.run), "checkpoint": run.step, "steps": report}, indent=2))
    return 0
