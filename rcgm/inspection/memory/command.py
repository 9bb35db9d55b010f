"""What `rcgm plan` does."""

from __future__ import annotations

import argparse
import json
import sys

from rcgm.config import TrainConfig, build_dataset_from, fit_to_data, load_config
from rcgm.data import DataInfo, TextInfo
from rcgm.files import write_atomically
from rcgm.inspection.memory.plan import plan_memory
from rcgm.inspection.memory.text import GIB, plan_lines

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Print the plan, and write it where that is asked for.

    Raises:
        ValueError: see :func:`plan_memory`; words that do not fit together, before any work.
    """
    config = load_config(options.config, options.overrides)
    info = _info(options, config)
    plan = plan_memory(
        fit_to_data(config, info),
        info,
        processes=options.gpus,
        memory=options.memory * GIB,
        on_progress=lambda text: print(text, file=sys.stderr),
    )
    print("\n".join(plan_lines(plan)))
    if options.json is not None:
        print(write_atomically(options.json, json.dumps(plan.plain(), indent=1) + "\n"))
    return 0


def _info(options: argparse.Namespace, config: TrainConfig) -> DataInfo:
    if options.shape is None:
        for name in ("classes", "text", "pooled"):
            if getattr(options, name) is not None:
                raise ValueError(f"--{name} needs --shape: without it the data of the configuration are looked at")
        return build_dataset_from(config).info
    text = None
    if options.pooled is not None and options.text is None:
        raise ValueError("--pooled needs --text")
    if options.text is not None:
        if len(options.text) != 2:
            raise ValueError(f"--text must be two numbers, tokens and channels, got {options.text}")
        tensors = {"text": options.text, "mask": options.text[:1]}
        text = TextInfo("", "", tensors if options.pooled is None else {**tensors, "pooled": (options.pooled,)})
    kind = "points" if len(options.shape) == 1 else "images"
    return DataInfo(options.shape, options.classes, kind, text=text)
