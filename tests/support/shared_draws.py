"""Run in two processes by ``test_shared_draws.py``: steps of a sharded network with dropout, and of one with its masks.

Writes a JSON file: for each case how far loss and gradients are apart.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from rcgm.config import ParallelConfig
from rcgm.distributed import make_mesh, parallelize, running_processes
from rcgm.distributed.shares import Processes
from rcgm.objectives import DECM, RCGM, MeanFlow, Objective
from rcgm.objectives.times import TimeSampler
from rcgm_kernels import Metric
from tests.support.dropping import DIM, Dropping, masks

ROWS = 6
OBJECTIVES = {
    "mean flow": lambda: MeanFlow(times=TimeSampler(equal=0.5)),
    "rcgm": lambda: RCGM(order=4, dt=0.1, points="jump", times=TimeSampler(equal=0.5)),
    "decm": lambda: DECM(metric=Metric()),
}
SHARDED = {
    "plain": {},
    "recomputed, kept": {
        "activation_checkpointing": "full",
        "keep_student_gathered": True,
        "keep_target_gathered": False,
    },
}


def distance(build, processes: Processes, parallel: dict) -> float:
    """The largest difference of loss and gradients, over the largest gradient."""
    student = Dropping()
    target = copy.deepcopy(student).requires_grad_(False)
    plain, plain_target = copy.deepcopy(student), copy.deepcopy(target)
    config = ParallelConfig(**parallel)
    mesh = make_mesh(config, torch.device("cpu"), processes.world_size)
    parallelize(student, config, mesh, keep_gathered=config.keep_student_gathered)
    parallelize(target, config, mesh, keep_gathered=config.keep_target_gathered)
    share = processes.share(ROWS * processes.world_size)
    x = torch.randn(share.total, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    far = largest = 0.0
    objective, other = build(), build()
    torch.manual_seed(processes.rank)  # each draws for its own rows
    for step in range(2):
        drawn = masks(share.rows)

        def loss(objective: Objective, network, target, cond, step=step):
            network.zero_grad()
            generator = torch.Generator().manual_seed(step)
            out = objective(network, share.of(x), cond, target=target, generator=generator, step=step, share=share)
            out.loss.backward()
            return out.loss.detach()

        mine = loss(objective, student, target, None)
        expected = loss(other, plain, plain_target, {"masks": drawn})
        pairs = [(mine, expected)]
        for sharded, whole in zip(student.parameters(), plain.parameters(), strict=True):
            assert isinstance(sharded.grad, DTensor)
            dist.all_reduce(whole.grad)
            pairs.append((sharded.grad.full_tensor(), whole.grad / processes.world_size))
        far = max(far, *(float((one - two).abs().max()) for one, two in pairs))
        largest = max(largest, *(float(two.abs().max()) for _, two in pairs))
    return far / largest


def main(path: Path) -> None:
    with running_processes("cpu") as processes:
        report = {
            f"{name}, {way}": distance(build, processes, parallel)
            for name, build in OBJECTIVES.items()
            for way, parallel in SHARDED.items()
        }
        if processes.is_main:
            path.write_text(json.dumps(report))
