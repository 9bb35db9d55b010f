"""What stands around a network: text encoders and autoencoder of its pipeline."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcgm.checks import one_of, whole_number
from rcgm.files import sha256_of
from rcgm.networks.pipelines.families import PIPELINES
from rcgm.networks.pipelines.family import PipelineFamily
from rcgm.networks.stock import dtype_of, dtype_option, is_hub_name, stock_class, unreadable

__all__ = ["TextPipeline"]

PARTS = ("text", "vae")
INDEX = "model_index.json"
SUFFIXES = (".json", ".jinja", ".model", ".safetensors", ".txt")
"""Of the files that a part is loaded from."""


class TextPipeline:
    """Text encoders and autoencoder of a pipeline of diffusers, frozen, without its transformer.

    Attributes:
        family: key of ``PIPELINES``.
        path: as it was given.
        length: tokens of a prompt.
        factor: pixels per latent, in height and width. With the part ``vae``, as the next three.
        frame_factor: frames per frame of latents after the first; 1 for families of images.
        latent_channels: of latents.
        multiple: what height and width of images must be multiples of, to be encoded and taken by the transformer.
        pipeline: the loaded pipeline; components that were not asked for are None.
    """

    def __init__(
        self, family: str, path: str, pipeline: Any, folder: Path, parts: Collection[str], length: int
    ) -> None:
        self.family = family
        self.path = path
        self.length = length
        self.pipeline = pipeline
        self._folder = folder
        self._parts = parts
        self._family: PipelineFamily = PIPELINES[family]
        if "vae" in parts:
            self.factor = self._family.factor(pipeline.vae)
            self.frame_factor = self._family.frame_factor(pipeline.vae)
            self.latent_channels = self._family.latent_channels(pipeline.vae)
            self.multiple = self.factor * self._family.patch

    @classmethod
    def from_pretrained(
        cls,
        family: str,
        path: str | os.PathLike[str],
        *,
        dtype: str | torch.dtype = "float32",
        device: torch.device | str = "cpu",
        parts: Collection[str] = PARTS,
        length: int | None = None,
    ) -> TextPipeline:
        """Load the parts of a pipeline that are asked for.

        Args:
            family: key of ``PIPELINES``.
            path: folder of the whole pipeline, or its name on the hub, ``owner/name``.
            dtype: of the text encoders, float32 or bfloat16. The autoencoder stays float32.
            device: where both go.
            parts: of ``text`` and ``vae``.
            length: tokens of a prompt; None for as many as the pipeline takes by default.

        Raises:
            ModuleNotFoundError: diffusers or transformers is not installed.
            TypeError, ValueError: an argument out of its range; no such pipeline, one of another class, or files that
                cannot be read.
        """
        one_of("family", family, PIPELINES)
        for part in parts:
            one_of("parts", part, PARTS)
        if length is not None:
            whole_number("length", length)
        kind = dtype_of(dtype)
        stock = stock_class(PIPELINES[family].STOCK)
        wanted = _components(family, parts)
        components = inspect.signature(stock.__init__).parameters
        left_out = {name: None for name in components if name not in ("self", *wanted)}
        folder = _folder_of(path, stock, left_out)
        there = _index(folder, path)
        left_out |= {name: None for name in wanted if name not in there}  # such as T5 of Stable Diffusion 3
        try:
            pipeline = stock.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                **dtype_option({"default": kind, "vae": torch.float32}),
                **left_out,
            )
        except Exception as error:  # diffusers and transformers each raise their own
            raise unreadable(f"the {stock.__name__}", path, error) from error
        pipeline = pipeline.to(device)
        for module in pipeline.components.values():
            if isinstance(module, torch.nn.Module):
                module.requires_grad_(False).eval()
        PIPELINES[family].complete(pipeline, folder)
        return cls(family, str(path), pipeline, folder, tuple(parts), length or PIPELINES[family].length)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """The condition of the network, of the same shape for all prompts.

        Args:
            prompts: B of them. Longer ones are cut: see :meth:`too_long`.

        Returns:
            ``text`` ``[B, L, C]``; ``mask`` ``[B, L]`` and ``pooled`` ``[B, D]`` where the family has them. On the
            device of the text encoders, in their dtype.

        Raises:
            TypeError: ``prompts`` is one string.
            ValueError: the text encoders were not loaded.
        """
        self._require("text")
        if isinstance(prompts, str):
            raise TypeError(f"prompts must be a sequence of strings, got the string {prompts!r}: put it in a list")
        return self._family.encode_prompts(self.pipeline, prompts, self.length)

    @torch.no_grad()
    def encode_null(self, negative: str = "") -> dict[str, Tensor]:
        """The condition of a negative prompt, with leading dimension 1. The empty one stands for no prompt."""
        self._require("text")
        return self._family.encode_null(self.pipeline, self.length, negative)

    def too_long(self, prompts: Sequence[str]) -> list[bool]:
        """Whether :meth:`encode_prompts` cuts each prompt, because it takes more than ``length`` tokens."""
        self._require("text")
        return [count > self.length for count in self._family.token_counts(self.pipeline, prompts)]

    @torch.no_grad()
    def encode_images(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Latents as the network takes them, normalised.

        Args:
            images: ``[B, 3, H, W]`` in [-1, 1], height and width multiples of ``multiple``; on any device. Families of
                videos take ``[B, 3, T, H, W]``, ``T - 1`` a multiple of ``frame_factor``; images are their first frame.
            generator: for a draw from the posterior; None for its mean.

        Returns:
            float32 ``[B, latent_channels, H / factor, W / factor]``; of videos
            ``[B, latent_channels, 1 + (T - 1) / frame_factor, H / factor, W / factor]``.

        Raises:
            ValueError: images of another shape, or the autoencoder was not loaded.
        """
        self._require("vae")
        video = self._family.video
        if video and images.ndim == 4:
            images = images.unsqueeze(2)
        fits = images.ndim == 4 + video and images.shape[1] == 3
        if not fits or any(side % self.multiple for side in images.shape[-2:]):
            shape = "[B, 3, T, H, W] or [B, 3, H, W]" if video else "[B, 3, H, W]"
            raise ValueError(
                f"images must be {shape}, H and W multiples of {self.multiple}, got {list(images.shape)}: "
                "resize or crop them"
            )
        if video and (images.shape[2] - 1) % self.frame_factor:
            raise ValueError(
                f"images must have 1 + a multiple of {self.frame_factor} frames, got {images.shape[2]}: cut some"
            )
        return self._family.encode_images(self.pipeline.vae, self._moved(images), generator).float()

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Images of about [-1, 1], float32, of latents as :meth:`encode_images` gives them: its inverse.

        Raises:
            ValueError: latents of another number of dimensions or channels, or the autoencoder was not loaded.
        """
        self._require("vae")
        video = self._family.video
        if latents.ndim != 4 + video or latents.shape[1] != self.latent_channels:
            shape = f"[B, {self.latent_channels}, {'t, ' if video else ''}h, w]"
            raise ValueError(f"latents must be {shape}, got {list(latents.shape)}")
        return self._family.decode_latents(self.pipeline.vae, self._moved(latents)).float()

    def files_hash(self) -> str:
        """SHA-256 over the files of the loaded parts: weights, configurations and vocabularies."""
        parts = [self._folder / part for part in _components(self.family, self._parts)]
        files = [file for part in parts for file in sorted(part.rglob("*")) if file.suffix in SUFFIXES]
        named = [f"{file.relative_to(self._folder).as_posix()} {sha256_of(file)}" for file in files]
        return hashlib.sha256("\n".join(named).encode()).hexdigest()

    def _require(self, part: str) -> None:
        if part not in self._parts:
            raise ValueError(f"parts must have {part!r} for this, got {', '.join(self._parts)}: load it too")

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.pipeline.vae.device, self.pipeline.vae.dtype)


def _components(family: str, parts: Collection[str]) -> tuple[str, ...]:
    text = PIPELINES[family].text_parts if "text" in parts else ()
    return (*text, *(("vae",) if "vae" in parts else ()))


def _folder_of(path: str | os.PathLike[str], stock: type[Any], left_out: dict[str, None]) -> Path:
    """The folder of a pipeline of the class ``stock``, fetched from the hub where ``path`` is a name there."""
    folder = Path(path)
    if not folder.exists():
        if not is_hub_name(path):
            raise ValueError(
                f"path must be the folder of a pipeline or a name on the hub, owner/name, got '{path}': no such folder"
            )
        try:
            folder = Path(stock.download(path, **left_out))
        except Exception as error:  # the hub's client has many
            raise ValueError(f"path: cannot fetch '{path}': {error}") from error
    found = _index(folder, path).get("_class_name")
    if found != stock.__name__:
        raise ValueError(
            f"path must hold a {stock.__name__}, got '{path}' with {found}: choose the family of that class"
        )
    return folder


def _index(folder: Path, path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the index of a pipeline's folder says, without the components that the pipeline does not have."""
    file = folder / INDEX
    if not file.is_file():
        raise ValueError(f"path must be a folder with {INDEX}, a pipeline of diffusers, got '{path}'")
    try:
        values = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"path: cannot read '{file}': {error}") from error
    return {name: value for name, value in values.items() if value not in (None, [None, None])}
