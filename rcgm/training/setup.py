"""The parts of a training run, built from the sections of its configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from rcgm.config import EmaConfig, EvaluateConfig, SampleConfig, TrainConfig, build_model_from
from rcgm.distributed import make_mesh, parallelize
from rcgm.distributed.shares import Processes
from rcgm.engine.cuda_graphs import GraphedNetwork
from rcgm.roles import Role, base_of
from rcgm.runs.conditions import DataCaptions, null_condition
from rcgm.runs.decoding import Decoder
from rcgm.runs.folder import RunFolder
from rcgm.runs.sampler import RunSampler, method_of
from rcgm.seeds import Purpose
from rcgm.training.adversary import Adversary
from rcgm.training.ema import Ema
from rcgm.training.evaluator import Evaluator
from rcgm.training.previews import Previews
from rcgm.training.step import TrainStep
from rcgm.training.step_metrics import StepMetrics
from rcgm.training.teacher import Teacher
from rcgm.training.utilisation import Utilisation

__all__ = ["build_ema", "build_metrics", "build_step", "build_views", "parallelize_networks"]


def build_ema(settings: EmaConfig, student: nn.Module) -> Ema:
    """The averages of ``student``."""
    return Ema(
        student,
        settings.decay,
        warmup=settings.warmup,
        cast=None if settings.cast is None else getattr(torch, settings.cast),
        target_decay=settings.target_decay,
        target_warmup=settings.target_warmup,
    )


def parallelize_networks(
    config: TrainConfig, student: nn.Module, ema: Ema, teacher: Teacher | None, processes: Processes
) -> None:
    """Compile and shard all networks, in place; after the averages are made, as such networks cannot be copied.

    The base of roles is prepared once for all of them. Its parameters stay gathered as those of a target do.

    Raises:
        ValueError: CUDA graphs or quantized weights with several processes.
    """
    if config.cuda_graphs and processes.world_size > 1:
        # sharded parameters are gathered in another place each time
        raise ValueError(f"cuda_graphs must be false where several processes train, got {processes.world_size}")
    quantization = config.model.arguments.get("quantization", "none")
    if quantization != "none" and processes.world_size > 1:
        raise ValueError(
            f"model.quantization must be none where several processes train, got {quantization}: FSDP cannot shard it"
        )
    settings = config.parallel
    mesh = make_mesh(settings, next(student.parameters()).device, processes.world_size)
    frozen = [*ema.copies, *([] if teacher is None else [teacher.network])]
    prepared: list[nn.Module] = []
    for network in (student, *frozen):
        if any(base_of(network) is module for module in prepared):
            continue
        trained_alone = network is student and not isinstance(student, Role)
        kept = settings.keep_student_gathered if trained_alone else settings.keep_target_gathered
        parallelize(network, settings, mesh, compile=config.compile, keep_gathered=kept)
        prepared.append(base_of(network))


def build_metrics(config: TrainConfig, dataset: Any, device: torch.device, processes: Processes) -> StepMetrics:
    """The step metrics of a run."""
    return StepMetrics(
        device,
        processes,
        time_ranges=config.logging.time_ranges,
        skip_limit=config.skip_limit if config.skip_nonfinite else None,
        utilisation=Utilisation(lambda: build_model_from(config), dataset.info, device, config.logging.peak_tflops),
    )


def build_step(
    config: TrainConfig,
    student: nn.Module,
    objective: Callable[..., Any],
    optimizer: torch.optim.Optimizer,
    ema: Ema,
    teacher: Teacher | None,
    adversary: Adversary | None,
    metrics: StepMetrics,
    dataset: Any,
    processes: Processes,
) -> TrainStep:
    """The optimizer step of a run."""
    device = next(student.parameters()).device
    return TrainStep(
        student,
        objective,
        optimizer,
        ema,
        seed=config.seed,
        accumulate=config.accumulate,
        autocast=getattr(torch, config.precision),
        clip_grad_norm=config.optimizer.clip_grad_norm,
        null_cond=null_condition(
            getattr(student, "num_classes", None), device, None if dataset.info.text is None else dataset.null_cond
        ),
        teacher=GraphedNetwork(teacher) if config.cuda_graphs and teacher is not None else teacher,
        frozen=() if teacher is None else (teacher.network,),
        processes=processes,
        target=GraphedNetwork(ema.target) if config.cuda_graphs else None,
        by_time=metrics.by_time,
        guard=metrics.guard,
        adversary=adversary,
    )


def build_views(
    config: TrainConfig,
    network: nn.Module,
    objective: Callable[..., Any],
    dataset: Any,
    folder: RunFolder,
    processes: Processes,
    *,
    show_progress: bool,
) -> tuple[Previews, Evaluator]:
    """What draws and what measures samples of ``network`` while it is trained.

    Raises:
        ValueError: samples cannot be drawn, decoded or measured as ``config`` asks for.
    """
    info = dataset.info
    device = next(network.parameters()).device
    path = config.sample.decoder
    decoder = None if path is None else Decoder(path, info, device)
    captions = None if info.text is None else DataCaptions(dataset)

    def sampler(settings: SampleConfig | EvaluateConfig, purpose: Purpose) -> RunSampler:
        return RunSampler(
            network,
            info,
            method=method_of(objective, settings.sampler),
            guidance=settings.guidance,
            autocast=getattr(torch, config.precision),
            seed=config.seed,
            purpose=purpose,
            captions=captions,
            processes=processes,
        )

    previews = Previews(config.sample, sampler(config.sample, Purpose.PREVIEW), dataset, folder, device, decoder)
    evaluator = Evaluator(
        config.evaluate,
        sampler(config.evaluate, Purpose.EVALUATION),
        dataset,
        device,
        decoder=decoder,
        processes=processes,
        show_progress=show_progress,
    )
    return previews, evaluator
