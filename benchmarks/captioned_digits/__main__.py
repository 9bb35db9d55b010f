"""The captioned digits: a small SANA by flow matching, then into few steps.

    python -m benchmarks.captioned_digits              one seed
    python -m benchmarks.captioned_digits --seeds 3    three
    python -m benchmarks.captioned_digits --adversarial    also few-step models with an adversarial term
    python -m benchmarks.captioned_digits --only 2     one of these; others may run beside it, with OMP_NUM_THREADS=1

Data, networks and runs go to runs/captioned_digits, the measures of each model to the result file as soon as it is
trained, samples of the first seed to docs/figures. A command that was stopped goes on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.captioned_digits.experiment import Experiment, Lengths
from benchmarks.captioned_digits.names import NAME
from benchmarks.captioned_digits.tables import measures_table
from benchmarks.environment import FIGURES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = Lengths()
    parser.add_argument("--folder", type=Path, default=Path("runs/captioned_digits"), help="of data and runs")
    parser.add_argument("--seeds", type=int, default=1, help="repetitions (1)")
    parser.add_argument("--only", type=int, metavar="SEED", help="this seed alone")
    parser.add_argument("--adversarial", action="store_true", help="models with an adversarial term, too")
    for name, what in (
        ("pictures", "pictures to train on"),
        ("prompts", "prompts of each kind to measure with"),
        ("multi_step", "steps of flow matching"),
        ("few_step", "steps of each few-step model"),
    ):
        default = getattr(usual, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"{what} ({default})")
    options = parser.parse_args()
    lengths = Lengths(options.pictures, options.prompts, options.multi_step, options.few_step)
    experiment = Experiment(options.folder, lengths)
    for seed in range(options.seeds) if options.only is None else [options.only]:
        experiment.run(seed, adversarial=options.adversarial)
        if seed == 0:
            experiment.draw(seed, FIGURES / f"{NAME}.png")
    print(measures_table())


if __name__ == "__main__":
    main()
