"""The trainings: a multi-step model first, then few-step models that begin with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.captioned_digits.data import NETWORK, write_network
from benchmarks.captioned_digits.names import GUIDANCE, MULTI_STEP
from rcgm.config import parse_config
from rcgm.runs import load_run
from rcgm.runs.checkpoint import latest_checkpoint
from rcgm.runs.folder import RunFolder
from rcgm.training import train

__all__ = ["ADVERSARIAL", "FEW_STEPS", "RUN", "folder_of", "train_few_steps", "train_multi_step"]

RUN = "run_"
"""What names of the folders of seeds begin with."""


def optimizer(lr: float, warmup_steps: int = 50) -> dict[str, Any]:
    """AdamW whose learning rate falls to 0 at the end of the run."""
    return {"lr": lr, "warmup_steps": warmup_steps, "schedule": "cosine", "clip_grad_norm": 1.0}


ORDER_2 = {
    "name": "rcgm",
    "order": 2,
    "dt": 0.05,
    "times": {"equal": 0.1},
    "supervision": "teacher",
    "guidance": {"name": "enhanced", "scale": GUIDANCE - 1, "network": "teacher"},
}
"""Distilled from the multi-step network with guidance, whose velocity has less noise than that of data; a first gap
that is a step of its 20."""
ORDER_1 = {**ORDER_2, "order": 1}
LORA = {
    "tune": "lora",
    "lora": {
        "rank": 64,
        "alpha": 64,
        "targets": ["to_q", "to_k", "to_v", "to_out.0", "time_embed.linear", "proj_out"],
    },
    "optimizer": optimizer(3e-3),
}
"""Beside attention, what the time changes in all blocks, which has to know the interval now."""
FEW_STEPS: dict[str, dict[str, Any]] = {
    "order 2, full": {"objective": ORDER_2},
    "order 2, LoRA": {"objective": ORDER_2, **LORA},
    "order 1, full": {"objective": ORDER_1},
}
"""What each few-step model says otherwise than :func:`common`."""
SELF_ADVERSARIAL = {**ORDER_2, "self_adversarial": {"weight": 0.5, "warmup_steps": 200}}
ADVERSARIAL: dict[str, dict[str, Any]] = {
    "order 2, self-adversarial, full": {"objective": SELF_ADVERSARIAL},
    "order 2, self-adversarial, LoRA": {"objective": SELF_ADVERSARIAL, **LORA},
    "order 2, discriminator, full": {
        "objective": ORDER_2,
        "discriminator": {"weight": 0.1, "optimizer": {"lr": 1e-3, "betas": [0.0, 0.99]}},
    },
}
"""The same for those with an adversarial term, which are trained where they are asked for."""


def common(folder: Path, steps: int, seed: int) -> dict[str, Any]:
    """What all trainings share."""
    return {
        "seed": seed,
        "steps": steps,
        "batch_size": 32,
        "device": "cpu",
        "data": {"name": "encoded_pairs", "path": str(folder / "pairs")},
        "optimizer": optimizer(1e-3),
        "ema": {"decay": 0.995},
        "checkpoint": {"every": 500, "keep": 1},
        "logging": {"every": 50, "tensorboard": False},
        "sample": {"every": 0},
        "evaluate": {"at_end": False},
    }


def folder_of(folder: Path, model: str, seed: int) -> Path:
    """The folder of a model's run."""
    return folder / f"{RUN}{seed}" / model.replace(" ", "_").replace(",", "")


def train_multi_step(folder: Path, steps: int, seed: int, arguments: Mapping[str, int] = NETWORK) -> dict[str, Any]:
    """Train a network of random weights by flow matching, and write it to ``folder/run_SEED/published``.

    A tenth of the captions are dropped, as guidance needs it.

    A run that was stopped goes on. Returns the summary of the run.
    """
    network, run = folder / f"{RUN}{seed}" / "network", folder_of(folder, MULTI_STEP, seed)
    write_network(network, **arguments, seed=seed)  # the same each time
    config = common(folder, steps, seed) | {
        "model": {"name": "sana", "path": str(network), "interval": "none"},
        "objective": {"name": "flow_matching", "label_dropout": 0.1},
        "optimizer": optimizer(3e-3, warmup_steps=100),
        "ema": {"decay": 0.999},
    }
    summary = _train(config, run)
    trained = load_run(run, device=torch.device("cpu")).network
    trained.transformer.save_pretrained(_published(folder, seed))
    return summary


def train_few_steps(folder: Path, model: str, steps: int, seed: int) -> dict[str, Any]:
    """Train a model of :data:`FEW_STEPS` or :data:`ADVERSARIAL` from the multi-step one of the same seed.

    A run that was stopped goes on. Returns the summary of the run.
    """
    config = common(folder, steps, seed) | {
        "model": {"name": "sana", "path": str(_published(folder, seed))},
        "teacher": {"base": True},
        **{**FEW_STEPS, **ADVERSARIAL}[model],
    }
    return _train(config, folder_of(folder, model, seed))


def _published(folder: Path, seed: int) -> Path:
    return folder / f"{RUN}{seed}" / "published"


def _train(config: dict[str, Any], run: Path) -> dict[str, Any]:
    begun = latest_checkpoint(RunFolder(run).checkpoints) is not None
    return train(parse_config(config), run, resume=begun)
