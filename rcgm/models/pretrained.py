"""Networks as folders in the layout of model hubs: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rcgm.files import new_folder
from rcgm.models.registry import MODELS, build_model
from rcgm_kernels.version import __version__

__all__ = ["load_pretrained", "read_pretrained", "save_pretrained"]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
RESERVED = ("model_type", "library_name", "library_version", "training")


def save_pretrained(
    network: nn.Module, folder: str | os.PathLike[str], *, training: Mapping[str, Any] | None = None
) -> Path:
    """Write ``network`` to a new folder, which appears whole or not at all.

    ``config.json`` holds the arguments of the network's constructor, its name as ``model_type``, and ``training``.

    Args:
        network: of a class of ``MODELS``, not sharded.
        folder: must not be there yet, or be empty.
        training: what to keep of its training, in values that JSON can hold.

    Returns:
        The folder.

    Raises:
        TypeError: ``network`` is of another class, or its tensors are sharded.
        FileExistsError: ``folder`` holds something.
    """
    from safetensors.torch import save_file

    name = next((name for name, model in MODELS.items() if type(network) is model), None)
    if name is None:
        known = ", ".join(model.__name__ for model in MODELS.values())
        raise TypeError(f"network must be one of {known}, and whole, got {type(network).__name__}")
    config = {"model_type": name, "library_name": "rcgm", "library_version": __version__, **network.arguments}
    if training is not None:
        config["training"] = dict(training)
    # Copies, as safetensors refuses tensors that share memory, which tied weights do.
    tensors = {key: tensor.to("cpu", copy=True).contiguous() for key, tensor in network.state_dict().items()}
    with new_folder(folder) as new:
        save_file(tensors, new / WEIGHTS, {"format": "pt"})
        (new / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return Path(folder)


def load_pretrained(folder: str | os.PathLike[str], *, device: torch.device | str = "cpu", **changes: Any) -> nn.Module:
    """The network that :func:`save_pretrained` wrote to ``folder``, in evaluation mode.

    Args:
        folder: a copy on this machine.
        device: where its tensors go.
        changes: arguments of the constructor that are to be others than the file's and change no tensor, such as
            ``attention`` or, for a network with positions, ``input_size``.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file cannot be read, or the tensors are not those of the network.
        TypeError: an argument of the constructor is unknown.

    Example:
        >>> network = load_pretrained("digits", attention="flash3", device="cuda")  # doctest: +SKIP
    """
    config, tensors = read_pretrained(folder)
    name = config.get("model_type")
    if name not in MODELS:
        raise ValueError(f"model_type in '{Path(folder) / CONFIG}' must be one of {', '.join(MODELS)}, got {name!r}")
    arguments = {key: value for key, value in config.items() if key not in RESERVED}
    # On the meta device first: initial weights would be drawn to be thrown away.
    with torch.device("meta"):
        network = build_model(name, **{**arguments, **changes})
    network.to_empty(device=device)
    network.reset_buffers()
    dtype = next((tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()), torch.float32)
    try:
        network.to(dtype).load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(
            f"'{Path(folder) / WEIGHTS}' does not fit its {CONFIG}: {' '.join(str(error).split())}"
        ) from error
    return network.eval()


def read_pretrained(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``config.json`` and the tensors of such a folder.

    Raises:
        FileNotFoundError, ValueError: as :func:`load_pretrained`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for file in (CONFIG, WEIGHTS):
        if not (Path(folder) / file).is_file():
            raise FileNotFoundError(f"no file '{Path(folder) / file}'")
    try:
        config = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(Path(folder) / WEIGHTS)
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"folder '{folder}' cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"'{Path(folder) / CONFIG}' must hold an object, got {type(config).__name__}")
    return config, tensors
