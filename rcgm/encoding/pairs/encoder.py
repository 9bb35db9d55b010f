"""What encodes images and captions: a published pipeline, or its autoencoder and the user's own encoder of captions."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcgm.checks import one_of
from rcgm.data.text.layout import MASKS, check_conditions
from rcgm.files import sha256_of
from rcgm.networks.pipelines import PIPELINES, TextPipeline

__all__ = ["ConditionEncoder", "PairEncoder", "load_condition_encoder", "load_encoder"]

ConditionEncoder = Callable[[list[str]], dict[str, Tensor]]
"""B captions to tensors ``[B, ...]`` by name, see ``rcgm.data.text.layout.CONDITIONS``. The empty caption stands for no
caption. It loads what it needs itself, at its first call."""


class PairEncoder:
    """Encodes images and captions.

    Args:
        pipeline: with its autoencoder; with its text encoders too unless ``conditions`` is given.
        conditions: encodes captions instead of the pipeline.
        name: of ``conditions``, as the user gave it.

    Attributes:
        multiple: of which height and width of images must be multiples.
        factor, latent_channels: of the autoencoder.
        length: tokens of a caption; None where the user's own encoder knows.
    """

    def __init__(self, pipeline: TextPipeline, conditions: ConditionEncoder | None = None, name: str = "") -> None:
        self.pipeline = pipeline
        self.name = name
        self.multiple: int = pipeline.multiple
        self.factor: int = pipeline.factor
        self.latent_channels: int = pipeline.latent_channels
        self.length: int | None = pipeline.length if conditions is None else None
        self._conditions = conditions

    def settings(self) -> dict[str, Any]:
        """What latents and conditions follow from, in plain values; where the files lie is no part of it."""
        settings: dict[str, Any] = {
            "family": self.pipeline.family,
            "files_sha256": self.pipeline.files_hash(),
            "length": self.length,
            "condition_encoder": self.name,
        }
        if self._conditions is not None:
            file = getattr(sys.modules.get(self._conditions.__module__), "__file__", None)
            settings["condition_encoder_sha256"] = None if file is None else sha256_of(Path(file))
        return settings

    def images(self, images: Tensor) -> Tensor:
        """Normalised latents float32 ``[B, C, h, w]`` of images ``[B, 3, H, W]`` in [-1, 1]: means of the posterior."""
        return self.pipeline.encode_images(images).float().cpu()

    def captions(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """The conditions ``[B, ...]`` of B captions, on the CPU; the mask is bool.

        Raises:
            TypeError, ValueError: the user's own encoder gives something else.
        """
        encode = self.pipeline.encode_prompts if self._conditions is None else self._conditions
        return self._checked(encode(list(captions)), len(captions))

    def null(self) -> dict[str, Tensor]:
        """The condition that stands for no caption, with a leading dimension of 1."""
        cond = self.pipeline.encode_null() if self._conditions is None else self._conditions([""])
        return self._checked(cond, 1)

    def too_long(self, captions: Sequence[str]) -> list[bool]:
        """Which captions are cut; none by the user's own encoder, as nobody knows."""
        return [False] * len(captions) if self._conditions is not None else self.pipeline.too_long(list(captions))

    def _checked(self, cond: Any, rows: int) -> dict[str, Tensor]:
        where = f"the result of {self.name or 'the text encoders'}"
        if not isinstance(cond, dict):
            raise TypeError(f"{where} must be a dict of tensors, got {type(cond).__name__}")
        check_conditions(cond, rows, where)
        return {name: (tensor.bool() if name in MASKS else tensor.detach()).cpu() for name, tensor in cond.items()}


def load_encoder(
    family: str,
    path: str,
    *,
    condition_encoder: str | None = None,
    length: int | None = None,
    device: torch.device,
    dtype: str = "float32",
) -> PairEncoder:
    """Load what is needed of a pipeline.

    Args:
        family: key of ``rcgm.networks.pipelines.PIPELINES``.
        path: of the pipeline.
        condition_encoder: ``module:function``, which is imported; the pipeline's text encoders are then not loaded.
        length: tokens of a caption; None for as many as the pipeline takes by default.
        device: where all goes.
        dtype: of the text encoders.

    Raises:
        ModuleNotFoundError: diffusers or transformers is not installed.
        ValueError: no such pipeline or function, or a family of videos.
    """
    one_of("family", family, PIPELINES)
    if PIPELINES[family].video:
        raise ValueError(f"family must be one of images, got {family!r}, of videos")
    parts = ("vae",) if condition_encoder is not None else ("text", "vae")
    conditions = None if condition_encoder is None else load_condition_encoder(condition_encoder)
    pipeline = TextPipeline.from_pretrained(family, path, dtype=dtype, device=device, parts=parts, length=length)
    return PairEncoder(pipeline, conditions, condition_encoder or "")


def load_condition_encoder(name: str) -> ConditionEncoder:
    """Import ``module:function``, from the current folder too.

    Raises:
        ValueError: ``name`` has another form; there is no such module, or no such function in it.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        raise ValueError(f"condition_encoder must be module:function, got {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"condition_encoder must be module:function, got {name!r}: {error}") from error
    if not callable(found):
        raise ValueError(f"condition_encoder must name a function, got {name!r}, a {type(found).__name__}")
    return found
