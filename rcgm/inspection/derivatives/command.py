"""What `rcgm derivatives` does."""

from __future__ import annotations

import argparse
import json
import sys

from rcgm.distributed import choose_device
from rcgm.files import write_atomically
from rcgm.inspection.derivatives.check import STEPS, check_derivatives
from rcgm.inspection.derivatives.text import report_lines
from rcgm.inspection.subject import Subject, subject_of_config, subject_of_run

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Print the report, and write what is asked for.

    Raises:
        ValueError: see :func:`check_derivatives`, and :mod:`rcgm.inspection.subject`; before any work where the words
            do not fit together.
    """
    if options.plot is not None and options.plot.suffix.lower() != ".png":
        raise ValueError(f"--plot must end in .png, got '{options.plot}'")
    if options.count % 2:
        raise ValueError(f"--count must be even, got {options.count}: r = 0 in half of the samples")
    subject = _subject(options)
    formats = tuple(dict.fromkeys(subject.target_format if name == "run" else name for name in options.formats))
    x, cond = subject.batch(options.count * options.ranges)
    report = check_derivatives(
        subject.network,
        x,
        cond,
        transport=subject.objective.transport,
        formats=formats,
        ranges=options.ranges,
        steps=STEPS if options.steps is None else options.steps,
        objective=subject.objective,
        batch_size=options.batch_size,
        seed=options.seed,
        on_progress=lambda text: print(text, file=sys.stderr),
    )
    size = sum(parameter.numel() for parameter in subject.network.parameters())
    print(f"{subject.name}: {subject.config.model.name}, {size:,} parameters")
    print("\n".join(report_lines(report, subject.objective)))
    if options.json is not None:
        found = {"network": subject.name, "parameters": size, **report.plain()}
        print(write_atomically(options.json, json.dumps(found, indent=1) + "\n"))
    if options.plot is not None:
        from rcgm.inspection.derivatives.picture import report_figure
        from rcgm.plots import save_figure

        print(save_figure(options.plot, report_figure(report)))
    return 0


def _subject(options: argparse.Namespace) -> Subject:
    device = choose_device(options.device)
    words = [word for word in (options.config, *options.overrides) if word is not None]
    if options.run is not None:
        if options.config is not None and "=" not in options.config:
            raise ValueError(f"give a configuration or --run, not both, got '{options.config}' and '{options.run}'")
        return subject_of_run(options.run, words, device, step=options.checkpoint, weights=options.weights)
    if options.config is None or "=" in options.config:
        raise ValueError("give the file of a configuration, or --run and the folder of a run")
    return subject_of_config(options.config, options.overrides, device)
