"""Trains by rcgm itself: the digits, then a DiT on latents for a while, with its share of the matrix rate.

    python -m benchmarks.gpu_training                a GPU: DiT-XL/2, batch 32, for a minute
    python -m benchmarks.gpu_training --seconds 5    shorter; on a CPU a DiT-micro/2

The latents are random numbers in the layout of `rcgm encode`: neither speed nor memory depends on what they are. The
operations of a step are counted by torch, those of attention and of forwards without gradient included, and divided by
what products of large bfloat16 matrices reach on the same device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import environment
from benchmarks.step_variants import CLASSES, VARIANTS, Bench
from benchmarks.timing import medians
from rcgm.config import load_config, parse_config
from rcgm.runs.folder import RunFolder
from rcgm.runs.metrics import read_metrics
from rcgm.training import train

SAMPLES, LATENT = 4096, (4, 32, 32)
VARIANT = "RCGM, order 2, rollout"
PRESETS = {"cuda": ("XL/2", 32, 8192), "cpu": ("micro/2", 4, 256)}
"""DiT, batch, and side of the matrices, by kind of device."""
TRIAL = 10
DIGITS = Path(__file__).parent.parent / "configs" / "digits.yaml"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of training on latents (60)")
    parser.add_argument("--digits", type=int, default=200, help="steps on the digits (200)")
    parser.add_argument("--name", default=None, help="name of the result file (training_cpu or training_cuda)")
    given = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = given.name or f"training_{device.type}"
    result: dict[str, Any] = {"environment": environment.describe(device)}
    with tempfile.TemporaryDirectory() as folder:
        result["digits"] = on_digits(Path(folder), given.digits)
        environment.write(name, result)
        result["latents"] = on_latents(Path(folder), device, given.seconds)
    print(json.dumps(result, indent=1))
    print(f"written to {environment.write(name, result)}")


def on_digits(folder: Path, steps: int) -> dict[str, float]:
    """The last loss of a short training of configs/digits.yaml."""
    config = load_config(DIGITS, [f"steps={steps}", "sample.every=0", "evaluate.at_end=false"])
    train(config, folder / "digits", show_progress=False)
    return {"steps": steps, "loss": read_metrics(RunFolder(folder / "digits").metrics)[-1]["loss"]}


def on_latents(folder: Path, device: torch.device, seconds: float) -> dict[str, Any]:
    """Speed of a training of order 2; absolute numbers only of a GPU."""
    preset, batch, side = PRESETS[device.type]
    write_latents(folder / "latents")
    begin = time.perf_counter()
    _train_on(folder, "trial", preset, batch, TRIAL, device)
    a_step = (time.perf_counter() - begin) / TRIAL
    steps = max(TRIAL, round(seconds / a_step))
    _train_on(folder, "run", preset, batch, steps, device)
    speed = statistics.median(row["images_per_second"] for row in read_metrics(RunFolder(folder / "run").metrics)[1:])
    a_step = batch / speed
    rate = 2 * side**3 / _product_seconds(side, device)
    found = {
        "preset": preset,
        "batch": batch,
        "steps": steps,
        "operations_a_step": operations(preset, batch, device),
        "clocks_mhz": environment.clocks(device),
    }
    found["share_of_matrix_rate"] = found["operations_a_step"] / a_step / rate
    if device.type == "cuda":
        found |= {"images_per_second": speed, "matrix_rate": rate, "bytes": torch.cuda.max_memory_allocated(device)}
    return found


def write_latents(folder: Path) -> None:
    """``SAMPLES`` random latents with labels, one shard."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((SAMPLES, *LATENT), generator=generator)
    labels = torch.arange(SAMPLES) % CLASSES
    save_file({"latents": latents, "labels": labels}, folder / "latents_rank00_shard000.safetensors")


def operations(preset: str, batch: int, device: torch.device) -> int:
    """Floating-point operations of a training step, counted by torch."""
    bench = Bench(preset, LATENT, device, torch.bfloat16)
    step = bench.step(next(variant for variant in VARIANTS if variant.name == VARIANT), batch)
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def _train_on(folder: Path, name: str, preset: str, batch: int, steps: int, device: torch.device) -> None:
    config = parse_config({
        "steps": steps,
        "batch_size": batch,
        "precision": "bfloat16",
        "device": device.type,
        "data": {"name": "latents", "path": str(folder / "latents")},
        "model": {"name": "dit", "preset": preset},
        "objective": {"name": "rcgm", "order": 2},
        "logging": {"every": 5, "tensorboard": False},
        "sample": {"every": 0},
        "evaluate": {"at_end": False},
        "checkpoint": {"every": steps, "keep": 1},
    })  # fmt: skip
    train(config, folder / name, show_progress=False)


def _product_seconds(side: int, device: torch.device) -> float:
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return medians({"product": lambda: a @ b}, rounds=10, calls=2, device=device)["product"]


if __name__ == "__main__":
    main()
