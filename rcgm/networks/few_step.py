"""Stock pipelines of diffusers that make images in few steps, with networks that were trained here."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, TypeVar

from rcgm.networks.base import PublishedNetwork
from rcgm.networks.families import NETWORKS
from rcgm.networks.interval_file import read_interval
from rcgm.networks.saving import LORA_FILE

__all__ = ["few_step"]

Pipeline = TypeVar("Pipeline")
STEP_TIMES = "_step_times"
"""Attribute of a transformer by which a second call finds what the first has done."""
SAMPLERS = ("any_step", "euler")
"""Samplers of ours that a pipeline of diffusers can be: from each time to the next, by the average velocity over the
step, or by the velocity at its beginning."""


def few_step(pipeline: Pipeline, folder: str | os.PathLike[str]) -> Pipeline:
    """Let ``pipeline`` make images in few steps: its transformer gets the embedding of the interval in ``folder``.

    Its scheduler becomes ``FlowMapEulerDiscreteScheduler`` with evenly spaced times, which steps as our sampler
    ``any_step``. The transformer is then told the exact times of each step and its end. Move the pipeline to its
    device before or afterwards, as you like; call this after ``load_lora_weights``.

    Args:
        pipeline: of diffusers, with the exported transformer, or with the exported LoRA.
        folder: that ``rcgm export`` wrote.

    Returns:
        ``pipeline``, which is changed.

    Raises:
        TypeError: ``pipeline`` has a transformer of another family.
        ValueError: ``folder`` has no embedding of the interval, its LoRA is not loaded, or the network was trained for
            a sampler that no pipeline has.

    Example:
        >>> pipeline = SanaPipeline.from_pretrained("Sana_600M")  # doctest: +SKIP
        >>> pipeline.load_lora_weights("few_step")  # doctest: +SKIP
        >>> few_step(pipeline, "few_step")("a red fox", num_inference_steps=2, guidance_scale=1.0)  # doctest: +SKIP
    """
    from rcgm.networks.few_step_scheduler import FewStepScheduler  # needs diffusers

    header, tensors = read_interval(folder)
    if header.family not in NETWORKS:
        raise ValueError(f"folder must be of a family of {', '.join(NETWORKS)}, got {header.family!r}: update rcgm")
    if header.sampler not in SAMPLERS:
        raise ValueError(
            f"folder must hold a network for the sampler {' or '.join(SAMPLERS)}, got one trained for "
            f"{header.sampler}, which diffusers does not have: draw its images with rcgm sample"
        )
    transformer = pipeline.transformer
    if (Path(folder) / LORA_FILE).is_file() and not getattr(transformer, "peft_config", None):
        raise ValueError(f"pipeline must have the LoRA of '{folder}': call pipeline.load_lora_weights with it first")
    if getattr(pipeline, "transformer_2", None) is not None:
        raise ValueError("pipeline must have one transformer, got one with transformer_2: few-step networks are one")
    options = {"guidance": float(header.guidance)} if header.guidance else {}
    network = NETWORKS[header.family](transformer, **options)
    embedder = network.interval_embedder
    shapes = {} if embedder is None else {key: value.shape for key, value in embedder.state_dict().items()}
    if str(network.time_scale) != header.time_scale or shapes != {key: value.shape for key, value in tensors.items()}:
        raise ValueError(f"pipeline must have the transformer that '{folder}' was made for, got another: load that one")
    embedder.load_state_dict(tensors)
    embedder.requires_grad_(False)
    earlier = getattr(transformer, STEP_TIMES, None)
    if earlier is not None:
        earlier.remove()
    pipeline.scheduler = FewStepScheduler()
    setattr(transformer, STEP_TIMES, _StepTimes(network, pipeline, to_end=header.sampler == "any_step"))
    return pipeline


class _StepTimes:
    """Lets a pipeline's transformer run at the exact times of the step that the pipeline makes.

    By hooks: offloading replaces the forward of a transformer, and puts it back after every image.

    Args:
        network: around that transformer.
        pipeline: whose scheduler knows the step.
        to_end: whether the interval reaches to the end of the step, or is empty.
    """

    def __init__(self, network: PublishedNetwork, pipeline: Any, *, to_end: bool) -> None:
        self._network = network
        self._pipeline = pipeline
        self._to_end = to_end
        self._given = contextlib.ExitStack()
        self._hooks = (
            network.transformer.register_forward_pre_hook(self._begin),
            network.transformer.register_forward_hook(self._end, always_call=True),
        )

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _begin(self, *_: Any) -> None:
        t, r = self._pipeline.scheduler.times_of_step()
        self._network.interval_embedder.to(t.device)
        self._given = self._network.exact_times(t, r if self._to_end else t)

    def _end(self, *_: Any) -> None:
        self._given.close()
