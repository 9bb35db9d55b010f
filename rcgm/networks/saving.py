"""Trained networks in the layouts of diffusers: a folder of weights, or a file of adapters."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from rcgm.files import new_folder
from rcgm.networks.base import PublishedNetwork
from rcgm.networks.families import family_of
from rcgm.networks.guided import GuidedNetwork
from rcgm.networks.interval_file import IntervalHeader, write_interval
from rcgm.networks.stock import stock_class
from rcgm.roles import Role, adapter_weights, base_of, merged_weights

__all__ = ["LORA_FILE", "save_adapter", "save_published"]

LORA_FILE = "pytorch_lora_weights.safetensors"
INDEX = "model_index.json"
PART = "transformer"


def save_published(
    network: nn.Module,
    folder: str | os.PathLike[str],
    *,
    sampler: str = "any_step",
    pipeline: str | os.PathLike[str] | None = None,
) -> Path:
    """Write ``network`` to a new folder in the layout of diffusers, which appears whole or not at all.

    ``transformer/`` has configuration and weights of the stock class, with adapters added to the weights.
    ``interval_embedder.safetensors`` stands beside it where the network has such an embedding of ours:
    :func:`~rcgm.networks.few_step` reads it.

    Args:
        network: a ``PublishedNetwork``, or a role on one.
        folder: must not be there yet, or be empty.
        sampler: key of ``rcgm.sampling.SAMPLERS`` that the network was trained for.
        pipeline: folder of the pipeline that the network comes from, whose other parts are copied; None for none.

    Raises:
        TypeError: ``network`` is something else.
        FileExistsError: ``folder`` holds something.
        ValueError: the base of a role is quantized, or ``pipeline`` is no folder of a whole pipeline.
    """
    base = base_of(network)
    family = family_of(base)
    others = [] if pipeline is None else _other_parts(Path(pipeline))
    tensors = merged_weights(network) if isinstance(network, Role) else network.state_dict()
    # On the meta device, which takes no memory: its weights are the ones given.
    with torch.device("meta"):
        transformer = stock_class(base.STOCK).from_config(base.transformer.config)
    transformer.load_state_dict(_within(tensors, PART), assign=True)
    with new_folder(folder) as new:
        transformer.save_pretrained(new / PART)
        _write_interval(new, base, family, tensors, sampler)
        for part in others:
            (shutil.copytree if part.is_dir() else shutil.copyfile)(part, new / part.name)
    return Path(folder)


def save_adapter(role: Role, folder: str | os.PathLike[str], *, sampler: str = "any_step") -> Path:
    """Write the adapters of ``role`` to a new folder, which appears whole or not at all.

    ``pytorch_lora_weights.safetensors`` is what ``pipeline.load_lora_weights`` of diffusers takes, its scale included;
    ``interval_embedder.safetensors`` stands beside it as with :func:`save_published`.

    Args:
        role: on a ``PublishedNetwork``.
        folder, sampler: see :func:`save_published`.

    Raises:
        TypeError: ``role`` is something else.
        FileExistsError: ``folder`` holds something.
    """
    from safetensors.torch import save_file

    if not isinstance(role, Role):
        raise TypeError(f"role must be a network with adapters, got {type(role).__name__}: use save_published")
    base = base_of(role)
    family = family_of(base)
    tensors = adapter_weights(role)
    ranks = {tensor.shape[0] for name, tensor in tensors.items() if name.endswith("lora_A.weight")}
    settings = {
        "r": max(ranks),
        "lora_alpha": max(ranks),  # the scale is in the weights
        "target_modules": [place.removeprefix(f"{PART}.") for place in role.shared.adapted],
    }
    header = {f"{PART}.{name}": value for name, value in settings.items()}
    with new_folder(folder) as new:
        written = {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        save_file(written, new / LORA_FILE, {"format": "pt", "lora_adapter_metadata": json.dumps(header)})
        _write_interval(new, base, family, role.state_dict(), sampler)
    return Path(folder)


def _write_interval(
    folder: Path, base: PublishedNetwork, family: str, tensors: Mapping[str, Tensor], sampler: str
) -> None:
    if base.interval_embedder is None:
        return
    guided = isinstance(base, GuidedNetwork) and base.transformer.config.guidance_embeds
    header = IntervalHeader(family, str(base.time_scale), sampler, str(base.guidance) if guided else "")
    write_interval(folder, _within(tensors, "interval_embedder"), header)


def _within(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of a part, on the CPU, by their names in it."""
    prefix = f"{name}."
    return {
        key.removeprefix(prefix): tensor.detach().cpu().contiguous()
        for key, tensor in tensors.items()
        if key.startswith(prefix)
    }


def _other_parts(pipeline: Path) -> list[Path]:
    """The index of a pipeline and the folders of its parts, but for the transformer."""
    index = pipeline / INDEX
    if not index.is_file():
        raise ValueError(
            f"model.path must be the local folder of a whole pipeline, with {INDEX}, to copy its other parts, got "
            f"'{pipeline}': leave out --whole"
        )
    parts = [name for name, value in json.loads(index.read_text(encoding="utf-8")).items() if isinstance(value, list)]
    folders = [pipeline / name for name in parts if name != PART and (pipeline / name).is_dir()]
    return [index, *folders]
