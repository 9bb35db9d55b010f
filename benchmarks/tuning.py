"""Memory of a text-to-image network whose student, target and teacher are copies, or roles on one base.

    python -m benchmarks.tuning

A SANA of 30 million random weights makes two steps of order 2, distilled from the network that it begins with. What it
held at most beyond the weights of one network goes to ``benchmarks/results/tuning.json``. Takes a minute on two cores.
"""

from __future__ import annotations

import argparse
import copy
import functools
import gc
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.environment import describe, write
from benchmarks.memory import held, high_water
from rcgm.config import OptimizerConfig, ParallelConfig
from rcgm.distributed import parallelize
from rcgm.networks import NETWORKS
from rcgm.networks.stock import stock_class
from rcgm.objectives import RCGM
from rcgm.roles import lora_role
from rcgm.training import Ema, TrainStep
from rcgm.training.optimizers import build_optimizer, export_optimizer

CPU = torch.device("cpu")
MIB = 2**20
SANA = {
    "in_channels": 32, "out_channels": 32, "num_attention_heads": 16, "attention_head_dim": 32, "num_layers": 7,
    "num_cross_attention_heads": 8, "cross_attention_head_dim": 64, "cross_attention_dim": 512, "mlp_ratio": 2.5,
    "caption_channels": 512, "sample_size": 8, "patch_size": 1,
}  # fmt: skip
"""SANA-0.6B made narrower and shorter: 28 layers of width 1152 there."""
SIDE, BATCH, WORDS, RANK, STEPS = 8, 2, 64, 16, 2
"""Latents of 256 pixels; a rank that is to this width what 64 is to the width of SANA-1.6B, 2240."""
VARIANTS = {
    "copies": ("full", "none"),
    "copies, blocks recomputed": ("full", "full"),
    "roles": ("lora", "none"),
    "roles, blocks recomputed": ("lora", "full"),
}
"""Ways of tuning, and which activations are computed again in the backward."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the result file goes; default: benchmarks/results")
    folder = parser.parse_args().folder
    result = {"environment": describe(CPU), **measure(SANA)}
    for name, found in result["variants"].items():
        print(f"{name}: {found['beyond_base'] / MIB:.0f} MiB beyond a network of {result['base'] / MIB:.0f} MiB")
    write("tuning", result, folder)


def measure(arguments: dict[str, Any]) -> dict[str, Any]:
    """Bytes of each variant, of a SANA with these arguments."""
    variants, base = {}, 0
    for name, (tune, recomputed) in VARIANTS.items():
        kept: dict[str, int] = {}
        work = functools.partial(_train, arguments, tune, recomputed, kept)
        peak = high_water(work, CPU)
        gc.collect()
        base = kept.pop("base")
        variants[name] = {**kept, "beyond_base": peak - base}
    settings = {"network": arguments, "side": SIDE, "batch": BATCH, "words": WORDS, "rank": RANK, "steps": STEPS}
    return {**settings, "base": base, "variants": variants}


def _train(arguments: dict[str, Any], tune: str, recomputed: str, kept: dict[str, int]) -> None:
    """Make the steps; ``kept`` gets the bytes of one network, of what is trained, and of a checkpoint."""
    torch.manual_seed(0)
    network: nn.Module = NETWORKS["sana"](stock_class("SanaTransformer2DModel")(**arguments))
    base = held(network.transformer.parameters())
    if tune == "full":
        student, teacher = network, copy.deepcopy(network).requires_grad_(False)
    else:
        student = lora_role(network, rank=RANK, alpha=RANK)
        teacher = student.without_adapter()
    ema = Ema(student, 0.999)
    parallelize(student, ParallelConfig(activation_checkpointing=recomputed), None, keep_gathered=True)
    optimizer = build_optimizer(OptimizerConfig(lr=1e-4), student)
    step = TrainStep(
        student,
        RCGM(order=2, supervision="teacher"),
        optimizer,
        ema,
        seed=0,
        teacher=lambda x, t, r, cond: teacher(x, t, t, cond),
    )
    channels = arguments["in_channels"]
    cond = {"text": torch.randn(BATCH, WORDS, arguments["caption_channels"])}
    for number in range(STEPS):
        step(number, torch.randn(BATCH, channels, SIDE, SIDE), cond)
    groups = (student.state_dict(), ema.network.state_dict(), export_optimizer(optimizer, student))
    kept["base"] = base
    kept["trained"] = held(parameter for parameter in student.parameters() if parameter.requires_grad)
    kept["checkpoint"] = sum(held(group.values()) for group in groups)


if __name__ == "__main__":
    main()
