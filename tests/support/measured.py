"""Images of a small network measured by one process, and in ``test_image_measure.py`` by several together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcgm.config import ParallelConfig
from rcgm.data import DataInfo
from rcgm.data.in_memory import InMemoryDataset
from rcgm.distributed import make_mesh, parallelize, running_processes
from rcgm.distributed.shares import Processes
from rcgm.models import DiT
from rcgm.runs.image_measure import ImageMeasure
from rcgm.runs.sampler import Method, RunSampler

CPU = torch.device("cpu")
INFO = DataInfo((1, 4, 4), 3, "images", value_range=(-1.0, 1.0))
COUNT, BATCH = 41, 4


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def judge(images: Tensor) -> tuple[Tensor, Tensor]:
    """A small random feature network."""
    assert images.dtype == torch.uint8 and images.shape[1] == 3
    features = torch.tanh((images.float() / 128 - 1).flatten(1) @ random(48, 5, seed=1) / 3)
    return features, features @ random(5, 4, seed=2)


def dataset() -> InMemoryDataset:
    return InMemoryDataset(random(50, *INFO.shape, seed=3).clamp(-1, 1), torch.arange(50) % 3, INFO)


def network() -> DiT:
    built = DiT.from_preset("nano/2", input_size=4, in_channels=1, num_classes=3)
    generator = torch.Generator().manual_seed(4)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return built.requires_grad_(False).eval()


STEPS = 3


def sampler(model: torch.nn.Module) -> RunSampler:
    """One that draws fresh noise in each step, with guidance."""
    return RunSampler(model, INFO, seed=5, method=Method("consistency"), guidance=1.5)


def measure(processes: Processes, **options: Any) -> ImageMeasure:
    return ImageMeasure(
        judge, dataset(), device=CPU, reference_count=33, batch_size=BATCH, processes=processes, **options
    )


def measure_together(path: str, reference: str | None) -> int:
    with running_processes("cpu") as processes:
        model = network()
        parallelize(
            model, ParallelConfig(), make_mesh(ParallelConfig(), CPU, processes.world_size), keep_gathered=False
        )
        measured = measure(processes, reference=reference)
        reports = [measured(sampler(model), COUNT, steps=STEPS) for _ in range(2)]
        if processes.is_main:
            Path(path).write_text(json.dumps(reports))
        else:
            assert reports == [{}, {}]
    return 0
