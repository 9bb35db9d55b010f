"""The trainings: a multi-step model first, then few-step models that begin with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rcgm.config import parse_config
from rcgm.runs import load_run
from rcgm.training import train

__all__ = ["FEW_STEPS", "MULTI_STEP", "train_few_steps", "train_multi_step"]

MULTI_STEP = "flow matching"
ORDER_2 = {"name": "rcgm", "order": 2, "dt": 0.05, "times": {"equal": 0.25}}
ORDER_1 = {**ORDER_2, "order": 1}
SLOW = {"decay": 0.999}
FEW_STEPS: dict[str, dict[str, Any]] = {
    "order 2, full": {"objective": ORDER_2},
    "order 2, LoRA": {
        "objective": ORDER_2,
        "tune": "lora",
        "lora": {"rank": 32, "alpha": 32},
        "optimizer": {"lr": 2e-3},
    },
    "order 1, full, slow target": {"objective": ORDER_1, "ema": SLOW},
}
"""What each few-step model says otherwise than :func:`common`."""


def common(folder: Path, steps: int, seed: int) -> dict[str, Any]:
    """What all trainings share."""
    return {
        "seed": seed,
        "steps": steps,
        "batch_size": 64,
        "device": "cpu",
        "data": {"name": "encoded_pairs", "path": str(folder / "pairs")},
        "optimizer": {"lr": 1e-3, "warmup_steps": 50, "clip_grad_norm": 1.0},
        "ema": {"decay": 0.995},
        "checkpoint": {"every": max(1, steps // 2), "keep": 1},
        "logging": {"every": 50, "tensorboard": False},
        "sample": {"every": 0},
        "evaluate": {"at_end": False},
    }


def train_multi_step(folder: Path, steps: int, seed: int) -> Path:
    """Train the network in ``folder/network`` by flow matching and write it to ``folder/published``.

    Returns:
        The folder of the run.
    """
    config = common(folder, steps, seed) | {
        "model": {"name": "sana", "path": str(folder / "network"), "interval": "none"},
        "objective": {"name": "flow_matching"},
        "optimizer": {"lr": 2e-3, "warmup_steps": 100, "clip_grad_norm": 1.0},
    }
    run = folder / f"run_{seed}" / MULTI_STEP.replace(" ", "_")
    train(parse_config(config), run)
    network = load_run(run, device=torch.device("cpu")).network
    network.transformer.save_pretrained(folder / f"run_{seed}" / "published")
    return run


def train_few_steps(folder: Path, name: str, steps: int, seed: int) -> Path:
    """Train the model of :data:`FEW_STEPS` from the multi-step one of the same seed; returns the folder of the run."""
    config = common(folder, steps, seed) | {
        "model": {"name": "sana", "path": str(folder / f"run_{seed}" / "published")},
        **FEW_STEPS[name],
    }
    run = folder / f"run_{seed}" / name.replace(" ", "_").replace(",", "")
    train(parse_config(config), run)
    return run
